"""CPU time of one control step of the tabletop world with its two cameras: python benchmarks/tabletop_step.py

Physics and pictures are timed apart, over the expert's motion (contacts included). The target is 10 CPU ms in all.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable

import numpy as np

from visuomotor.simulation.rendering import mujoco
from visuomotor.simulation.tabletop import TabletopEnvironment, scenarios


def timed(call: Callable[[], object], spent: list[float]) -> object:
    start = time.process_time()
    result = call()
    spent.append(1e3 * (time.process_time() - start))
    return result


def measure(episodes: int, pixels: int, quality: str) -> dict[str, float]:
    env = TabletopEnvironment(render_quality=quality, cameras_px=pixels)
    spent: dict[str, list[float]] = {"reset": [], "step": [], "images": [], "annotate": []}
    env.reset(seed=0)
    env.images()
    for index, scenario in enumerate(scenarios("train", episodes, 0)):
        timed(lambda scenario=scenario: env.reset(options={"scenario": scenario}), spent["reset"])
        expert, done = env.expert(np.random.default_rng(index)), False
        while not done:
            action = expert.act()
            result = timed(lambda action=action: env.step(action), spent["step"])
            timed(env.images, spent["images"])
            timed(env.annotate, spent["annotate"])
            done = result[2] or result[3]  # type: ignore[index]
    env.close()
    return {name: round(float(np.mean(values)), 3) for name, values in spent.items()} | {"steps": len(spent["step"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--pixels", type=int, default=128)
    parser.add_argument("--quality", default="fast")
    arguments = parser.parse_args()
    found = measure(arguments.episodes, arguments.pixels, arguments.quality)
    total = round(found["step"] + found["images"], 3)
    print(f"step {found['step']} ms + two {arguments.pixels} px cameras {found['images']} ms = {total} CPU ms")
    record = {"cpu_ms_step_and_images": total, "cpu_ms": found, **vars(arguments)}
    print(json.dumps(record | {"mujoco": mujoco.__version__, "machine": platform.machine()}))


if __name__ == "__main__":
    main()

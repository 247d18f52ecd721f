"""How fast LeRobot v3 files are written and read: `python benchmarks/data_loading.py [--seconds 5]`.

Makes 20 episodes x 200 frames x 2 cameras at 224 px (moving textures), state 7, action 7, in h264 and AV1, in a
temporary folder. A sample is two views, the state and a window of 16 actions. One thread. Rates are given by wall time
and by process CPU time; the last line is one JSON document.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from visuomotor.contract import Camera, Component, Embodiment, Episode
from visuomotor.data.lerobot import Dataset, DatasetWriter

SIDE, EPISODES, FRAMES, HORIZON = 224, 20, 200, 16
CAMERAS = ("scene", "wrist")


def embodiment() -> Embodiment:
    arm = Component(name="arm", dims=tuple(f"joint{i}" for i in range(7)), kind="joint", unit="rad")
    cameras = tuple(Camera(name=n, role=n, height=SIDE, width=SIDE) for n in CAMERAS)
    return Embodiment(name="benchmark", control_hz=30, cameras=cameras, state=(arm,), action=(arm,))


def episode(index: int) -> Episode:
    """A still textured background, a few textured squares that move, and sensor noise of one grey level."""
    rng = np.random.default_rng(index)

    def texture(side: int) -> np.ndarray:
        coarse = Image.fromarray(rng.integers(40, 216, (side // 8, side // 8, 3), np.uint8))
        return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))

    images = {}
    noise = rng.integers(-1, 2, (8, SIDE, SIDE, 3))
    for camera in CAMERAS:
        frames = np.repeat(texture(SIDE)[None], FRAMES, 0)
        for _ in range(4):
            patch, start, step = texture(40), rng.uniform(0, SIDE - 40, 2), rng.uniform(-1.5, 1.5, 2)
            for t in range(FRAMES):
                y, x = np.abs((start + t * step) % (2 * (SIDE - 40)) - (SIDE - 40)).astype(int)
                frames[t, y : y + 40, x : x + 40] = patch
        images[camera] = np.stack([(f + noise[t % 8]).clip(0, 255) for t, f in enumerate(frames)]).astype(np.uint8)
    numbers = rng.normal(size=(2, FRAMES, 7)).astype(np.float32)
    return Episode(instruction="move the square", state=numbers[0], actions=numbers[1], images=images)


def write(root: Path, codec: str) -> dict[str, float]:
    wall = cpu = 0.0
    writer = DatasetWriter(root, embodiment(), fps=30, codec=codec)  # type: ignore[arg-type]
    for index in range(EPISODES):
        one = episode(index)
        start, busy = time.perf_counter(), time.process_time()
        writer.add(one)
        wall, cpu = wall + time.perf_counter() - start, cpu + time.process_time() - busy
    writer.close()
    size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) / 1e6
    frames = EPISODES * FRAMES
    rates = {"write_steps_per_s": frames / wall, "write_cpu_ms_per_step": 1e3 * cpu / frames, "megabytes": size}
    return {name: round(value, 2) for name, value in rates.items()}


def numbers(dataset: Dataset, rows: np.ndarray) -> None:
    dataset.values("observation.state", rows)
    dataset.windows("action", rows, HORIZON)


def random_batches(dataset: Dataset, size: int) -> Iterator[int]:
    rng = np.random.default_rng(0)
    while True:
        rows = rng.integers(0, dataset.num_frames, size)
        for camera in CAMERAS:
            dataset.frames(camera, rows)
        numbers(dataset, rows)
        yield size


def streamed(dataset: Dataset, size: int) -> Iterator[int]:
    """Batches of `size` stacked from the stream, as a loader makes them."""
    for epoch in range(10**6):
        batch = []
        for row, images in dataset.stream(np.random.default_rng(epoch)):
            batch.append((row, images))
            if len(batch) == size:
                for camera in CAMERAS:
                    np.stack([images[camera] for _, images in batch])
                numbers(dataset, np.array([row for row, _ in batch]))
                batch = []
                yield size


def rate(make: Callable[[], Iterator[int]], seconds: float) -> dict[str, float]:
    """Samples a second of wall and of CPU time, the best of three windows (others may use the machine)."""
    batches = make()
    next(batches)
    best = {"wall": 0.0, "cpu": 0.0}
    for _ in range(3):
        count, start, busy = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start < seconds / 3:
            count += next(batches)
        best["wall"] = max(best["wall"], count / (time.perf_counter() - start))
        best["cpu"] = max(best["cpu"], count / (time.process_time() - busy))
    return {name: round(value, 1) for name, value in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    seconds = parser.parse_args().seconds
    results: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for codec in ("h264", "av1"):
            root = Path(folder) / codec
            results[codec] = {**write(root, codec)}
            dataset = Dataset(root)
            cases: dict[str, Callable[[], Iterator[int]]] = {
                "random, 1 at a time": lambda dataset=dataset: random_batches(dataset, 1),
                "random, batches of 8": lambda dataset=dataset: random_batches(dataset, 8),
                "random, batches of 64": lambda dataset=dataset: random_batches(dataset, 64),
                "shuffled stream": lambda dataset=dataset: streamed(dataset, 64),
            }
            if codec == "h264":
                cached = dataset.cached(None, Path(folder) / "cache")
                cases["memory map, batches of 64"] = lambda cached=cached: random_batches(cached, 64)
            print(f"\n{codec}: {results[codec]}")
            for name, make in cases.items():
                results[codec][name] = found = rate(make, seconds)
                print(f"  {name:<28} {found['wall']:>8.0f} samples/s {found['cpu']:>8.0f} samples/CPU s", flush=True)
    versions = {"av": av.__version__, "numpy": np.__version__, "cores": os.cpu_count()}
    print(json.dumps({"benchmark": "data_loading", "versions": versions, "results": results}))


if __name__ == "__main__":
    main()

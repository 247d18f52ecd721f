r"""Your robot, driven by a policy server. Runs on the robot's computer: Python 3.9, the client package, no torch.

    pip install visuomotor-client
    python examples/real_robot.py --server wss://gpu-machine:8000 --api-key KEY --driver my_robot:MyRobot \
        --instruction "open the drawer"

Write the driver, a class with five methods, and name it as MODULE:CLASS. Units, order and references of its numbers are
those of the embodiment that the server's metadata carry; `--describe` prints it. Begin with `--safety shadow` and a
driver whose `act` only prints; then small `--step-length`; then let go. Ctrl-C stops the robot where it is.

    class MyRobot:
        def state(self): ...             # float32[s]: measured now, in the embodiment's units
        def images(self): ...            # {camera: uint8[h, w, 3] RGB}, the embodiment's cameras
        def act(self, command): ...      # float32[a]: send it, do not wait for the motion
        def hold(self): ...              # stay where you are: called when the loop ends, for whatever reason
        def close(self): ...             # leave the hardware in good order
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from typing import Any

import numpy as np
from visuomotor_client import PolicyClient, connect
from visuomotor_client.controller import Controller
from visuomotor_client.executors import EXECUTORS, guidance_of, make_executor
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.loop import SystemClock, ThreadedInference, run
from visuomotor_client.safety import MODES, SafetyFilter

UNGUIDED = [name for name in EXECUTORS if guidance_of(name) is None]  # openpi's protocol has no place for guidance


class Robot:
    """A driver as the control loop wants it, in the server's keys."""

    def __init__(self, driver: Any, keys: dict, instruction: str) -> None:
        self.driver, self.keys, self.instruction = driver, keys, instruction

    def state(self) -> np.ndarray:
        return np.asarray(self.driver.state(), np.float32)

    def observe(self) -> dict:
        images = self.driver.images()
        message = {key: images[camera] for camera, key in self.keys["cameras"].items()}
        if len(self.keys["state"]) > 1:
            raise ValueError(f"This server wants the state in parts; send them under {self.keys['state']}.")
        return {**message, self.keys["state"][0]: self.state(), self.keys["instruction"]: self.instruction}

    def act(self, command: np.ndarray) -> None:
        self.driver.act(command)


def drive(policy: PolicyClient, driver: Any, options: argparse.Namespace) -> Controller:
    """Control steps at the embodiment's rate, until they are done or something goes wrong. The robot is held then."""
    embodiment = policy.metadata["embodiment"]
    limits = SafetyLimits(
        step_length=options.step_length,
        step_angle=options.step_angle,
        watchdog=options.watchdog,
        chunk_age=options.chunk_age,
    )
    safety = SafetyFilter(embodiment, limits, mode=options.safety)
    controller = Controller(make_executor(options.executor, embodiment, execute=options.execute), safety)
    robot = Robot(driver, policy.metadata["observation_keys"], options.instruction)

    def ask(observation: dict, request: object) -> np.ndarray:
        return policy.infer(observation)["actions"]

    try:
        run(controller, robot, ask, clock=SystemClock(), inference=ThreadedInference(), steps=options.steps)
    finally:
        driver.hold()
    return controller


def find_driver(name: str) -> Any:
    """The driver named as MODULE:CLASS, made without arguments; the folder you are in is searched, too."""
    module, _, cls = name.partition(":")
    if not cls:
        raise SystemExit(f"--driver is {name!r}; name it as MODULE:CLASS, e.g. my_robot:MyRobot.")
    sys.path.insert(0, "")
    return getattr(import_module(module), cls)()


def parse(arguments: list | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="ws://127.0.0.1:8000", help="ws:// or, with TLS, wss://")
    parser.add_argument("--api-key")
    parser.add_argument("--driver", help="MODULE:CLASS")
    parser.add_argument("--instruction", default="", help="what the robot should do")
    parser.add_argument(
        "--describe", action="store_true", help="print the embodiment that the server expects, and leave"
    )
    parser.add_argument("--steps", type=int, default=600, help="control steps")
    parser.add_argument("--executor", choices=UNGUIDED, default="receding_horizon")
    parser.add_argument("--execute", type=int, default=8, help="actions of a chunk between two looks")
    parser.add_argument("--safety", choices=MODES, default="clamp")
    parser.add_argument("--step-length", type=float, default=0.02, help="end-effector, in its unit per control step")
    parser.add_argument("--step-angle", type=float, default=0.2, help="end-effector, rad per control step")
    parser.add_argument("--watchdog", type=float, default=1.0, help="seconds without observation or action, then hold")
    parser.add_argument("--chunk-age", type=float, default=3.0, help="seconds after which an action is too old")
    return parser.parse_args(arguments)


def main(arguments: list | None = None) -> int:
    options = parse(arguments)
    with connect(options.server, api_key=options.api_key) as policy:
        if options.describe or options.driver is None:
            print(json.dumps({name: policy.metadata[name] for name in ("embodiment", "observation_keys")}, indent=2))
            return 0
        driver = find_driver(options.driver)
        try:
            controller = drive(policy, driver, options)
        except KeyboardInterrupt:
            print("Stopped; the robot holds.")
            return 130
        finally:
            driver.close()
    reasons = dict(controller.safety.counts) or "none"
    print(f"{controller.step} steps, {controller.stalls} without an action, interventions: {reasons}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

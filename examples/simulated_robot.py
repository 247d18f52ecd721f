"""A simulated robot, driven by a policy server: what a real one does, without one.

    visuomotor serve src/visuomotor/checkpoints/tabletop-nano --vla-eval-port None      # in one terminal
    python examples/simulated_robot.py --episodes 3                                     # in another

Between the two is the client package alone, with its executor and its safety filter; only the world is visuomotor's.
"""

import argparse
import contextlib
import threading
from typing import Any

import numpy as np
from visuomotor_client import PolicyClient, connect
from visuomotor_client.controller import Controller
from visuomotor_client.executors import EXECUTORS, guidance_of, make_executor
from visuomotor_client.loop import SystemClock, ThreadedInference, run
from visuomotor_client.safety import SafetyFilter

from visuomotor.simulation.interface import Environment, make_environment, make_scenarios

UNGUIDED = [name for name in EXECUTORS if guidance_of(name) is None]  # openpi's protocol has no place for guidance


class EpisodeOver(Exception):
    """The world has nothing left to be done in."""


class SimulatedRobot:
    """A world as the loop wants a robot: a state, an observation in the server's keys, and a place for commands."""

    def __init__(self, environment: Environment, instruction: str) -> None:
        self.environment, self.instruction = environment, instruction
        self.success, self.steps = False, 0

    def state(self) -> np.ndarray:
        return self.environment.state()

    def observe(self) -> dict[str, Any]:
        return {"images": self.environment.images(), "state": self.environment.state(), "prompt": self.instruction}

    def act(self, command: np.ndarray) -> None:
        _, _, terminated, truncated, info = self.environment.step(command)
        self.steps, self.success = self.steps + 1, self.success or bool(info["success"])
        if terminated or truncated:
            raise EpisodeOver


def episode(
    policy: PolicyClient, environment: Environment, instruction: str, executor: str, steps: int
) -> SimulatedRobot:
    """One episode in real time; the robot with what became of it."""
    policy.reset()  # the policy forgets the episode before
    robot = policy.metadata["embodiment"]
    controller = Controller(make_executor(executor, robot, execute=4), SafetyFilter(robot))
    world = SimulatedRobot(environment, instruction)

    one_at_a_time = threading.Lock()

    def ask(observation: dict[str, Any], request: object) -> np.ndarray:
        with one_at_a_time:
            return policy.infer(observation)["actions"]

    with contextlib.suppress(EpisodeOver):
        run(controller, world, ask, clock=SystemClock(), inference=ThreadedInference(), steps=steps)
    one_at_a_time.acquire()  # an answer that nobody waits for may be under way, on the connection that is used next
    reasons = dict(controller.safety.counts) or "none"
    delay = f"{np.mean(controller.delays):.1f} steps" if controller.delays else "none came"
    print(
        f"  {world.steps} steps, answers after {delay}, {controller.stalls} without an action, interventions: {reasons}"
    )
    return world


def main(arguments: list[str] | None = None) -> int:
    """Drive some episodes; the number of successes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="ws://127.0.0.1:8000")
    parser.add_argument("--env", default="tabletop")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200, help="control steps of an episode")
    parser.add_argument("--executor", choices=UNGUIDED, default="receding_horizon")
    parser.add_argument("--api-key")
    options = parser.parse_args(arguments)
    environment = make_environment(options.env)
    successes = 0
    with connect(options.server, api_key=options.api_key) as policy:
        for scenario in make_scenarios(options.env, "train", options.episodes, 100_000):
            environment.reset(options={"scenario": scenario})
            print(environment.instruction)
            successes += episode(policy, environment, environment.instruction, options.executor, options.steps).success
    print(f"{successes} of {options.episodes} succeeded")
    environment.close()
    return successes


if __name__ == "__main__":
    main()

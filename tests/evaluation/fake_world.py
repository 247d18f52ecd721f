"""A world that costs nothing: a point moves along a line to the goal that the words name.

State [x, goal is seen by the policy only through the instruction]. Tasks "left" (x <= -1) and "right" (x >= 1).
"""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.contract import Camera, Component, Embodiment, Scenario
from visuomotor.simulation.interface import Environment, WorldSpec

EMBODIMENT = Embodiment(
    name="point",
    control_hz=10.0,
    cameras=(
        Camera(name="top", role="scene", height=32, width=32),
        Camera(name="hand", role="wrist", height=32, width=32),
    ),
    state=(Component(name="x", dims=("x",), kind="position", unit="m"),),
    action=(Component(name="dx", dims=("dx",), kind="position", unit="m", low=(-0.2,), high=(0.2,), reference="step"),),
)
SENTENCES = {"left": "go to the left", "right": "go to the right"}


class PointEnvironment(Environment):
    name, embodiment, render_quality, max_steps = "fake", EMBODIMENT, "fast", 40

    def __init__(
        self,
        crash_file: str | None = None,
        always_crash: int | None = None,
        broken_seed: int | None = None,
        hang: bool = False,
    ) -> None:
        self.crash_file, self.always_crash, self.broken_seed = crash_file, always_crash, broken_seed
        self.hang = hang
        self.rendered = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        self.scenario: Scenario = (options or {})["scenario"]
        self.x = np.float32(np.random.default_rng(self.scenario.seed).uniform(-0.3, 0.3))
        self.instruction = self.scenario.instruction or SENTENCES[self.scenario.task]
        self.steps = 0
        return self.state(), self._info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.scenario.seed == self.broken_seed:
            raise RuntimeError("the gear is stuck")
        if self.scenario.seed == self.always_crash:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.crash_file and self.scenario.seed % 10 == 3 and not Path(self.crash_file).exists():
            Path(self.crash_file).write_text("crashed once")
            if self.hang:
                time.sleep(600)
            os.kill(os.getpid(), signal.SIGKILL)
        self.x = np.float32(self.x + np.clip(action[0], -0.2, 0.2))
        self.steps += 1
        info = self._info()
        return self.state(), 0.0, info["success"], self.steps >= self.max_steps, info

    def _info(self) -> dict[str, Any]:
        reached = float(self.x if self.scenario.task == "right" else -self.x)
        done = float(np.clip(reached, 0, 1))
        stages = {"half": min(2 * done, 1.0), "whole": done}
        return {"success": reached >= 1, "progress": done, "instruction": self.instruction, "stages": stages}

    def images(self, cameras: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        self.rendered += 1
        picture = np.full((32, 32, 3), 40, np.uint8)
        column = int(np.clip((self.x + 1.5) / 3 * 31, 0, 31))
        picture[:, column] = (250, 220, 40)
        return {camera.name: picture.copy() for camera in EMBODIMENT.cameras}

    def state(self) -> np.ndarray:
        return np.array([self.x], np.float32)


def scenarios(split: str, count: int, seed: int) -> list[Scenario]:
    words = {"train": None, "heldout_paraphrase": "please move over to the {}"}[split]
    tasks = list(SENTENCES)
    return [
        Scenario(
            environment="fake",
            task=tasks[i % 2],
            seed=seed + i,
            split=split,
            instruction=None if words is None else words.format(tasks[i % 2]),
        )
        for i in range(count)
    ]


def other_instruction(scenario: Scenario) -> str:
    return SENTENCES["left" if scenario.task == "right" else "right"]


WORLD = WorldSpec(
    name="fake",
    make=PointEnvironment,
    scenarios=scenarios,
    robot=EMBODIMENT,
    splits=("train", "heldout_paraphrase"),
    other_instruction=other_instruction,
)

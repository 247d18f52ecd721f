"""A point that moves to a goal on a plane, as a world: no physics, no rendering, and every mishap on request."""

import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.contract import Annotation, Camera, Component, Embodiment, Scenario
from visuomotor.simulation.interface import Environment, WorldSpec

LIMITS = (0.1, 0.1)
EMBODIMENT = Embodiment(
    name="fake_point",
    control_hz=10.0,
    cameras=tuple(Camera(name=n, role=r, height=16, width=16) for n, r in (("top", "scene"), ("side", "wrist"))),
    state=(Component(name="position", dims=("x", "y"), kind="position", unit="m"),),
    action=(
        Component(
            name="delta", dims=("x", "y"), kind="position", unit="m", low=(-0.1, -0.1), high=LIMITS, reference="step"
        ),
        Component(
            name="gripper", dims=("width",), kind="gripper", unit="", low=(-1.0,), high=(1.0,), opened=1.0, closed=-1.0
        ),
    ),
)  # fmt: skip


def fails(scenario: Scenario) -> bool:
    """Whether the fake expert is bound to fail."""
    return scenario.seed % 3 == 1


class FakeExpert:
    """Moves straight to the goal; closes the gripper halfway. A function of the present state only."""

    def __init__(self, env: "FakeEnvironment") -> None:
        self.env, self.subtask = env, ""

    def act(self) -> np.ndarray:
        away = self.env.goal - self.env.position
        self.subtask = "far" if np.abs(away).max() > 0.4 else "near"
        return np.append(np.clip(away, -0.1, 0.1), 1.0 if self.subtask == "far" else -1.0).astype(np.float32)


class FakeEnvironment(Environment):
    name = "fake"
    embodiment = EMBODIMENT
    max_steps = 40

    def __init__(self, render_quality: str, delay: float, trouble: str | None) -> None:
        self.render_quality, self.delay, self.trouble = render_quality, delay, trouble
        self.executed: list[np.ndarray] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        scenario: Scenario = (options or {})["scenario"]
        self.position, self.steps, self.hopeless = np.zeros(2), 0, fails(scenario)
        self.goal = np.random.default_rng(scenario.seed).uniform(0.5, 0.9, 2)
        self.instruction = f"go to place {scenario.task}"
        self.executed = []
        self._maybe_trouble(scenario)
        return self.state(), {"success": False}

    def _maybe_trouble(self, scenario: Scenario) -> None:
        if self.trouble is None or scenario.options["number"] != 3:
            return
        kind, path = self.trouble.split(":", 1)
        if not Path(path).exists():
            return
        if kind == "once":
            Path(path).unlink()
        if kind == "hang":
            Path(path).unlink()
            time.sleep(600)
        if kind == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        os.kill(os.getpid(), signal.SIGKILL)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        time.sleep(self.delay)
        self.executed.append(action)
        self.position = self.position + action[:2]
        self.steps += 1
        done = bool(np.abs(self.goal - self.position).max() < 0.01) and not self.hopeless
        return self.state(), float(done), done, self.steps >= self.max_steps, {"success": done}

    def images(self, cameras: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        values = np.clip(self.position * 200, 0, 255).astype(np.uint8)
        return {
            c.name: np.full((16, 16, 3), [values[0], values[1], i * 90], np.uint8)
            for i, c in enumerate(EMBODIMENT.cameras)
        }

    def state(self) -> np.ndarray:
        return self.position.astype(np.float32)

    def annotate(self) -> Annotation:
        return Annotation(
            subtask="",
            boxes={"top": {"goal": (1, 2, 30, 40)}, "side": {}},
            point={"top": (500, 600), "side": (0, 1000)},
            progress=float(np.clip(self.position.mean(), 0, 1)),
            gripper_switch=False,
            contact=False,
        )

    def expert(self, rng: np.random.Generator) -> FakeExpert:
        return FakeExpert(self)

    def shuffle(self, rng: np.random.Generator) -> None:
        self.position = rng.uniform(0, 1, 2)


def make(render_quality: str = "fast", delay: float = 0.0, trouble: str | None = None) -> FakeEnvironment:
    return FakeEnvironment(render_quality, delay, trouble)


def scenarios(split: str, count: int, seed: int, places: int = 2) -> list[Scenario]:
    return [
        Scenario(
            environment="fake", task="ab"[i % places], seed=1000 * seed + 7 * i, split=split, options={"number": i}
        )
        for i in range(count)
    ]


WORLD = WorldSpec(
    name="fake",
    make=make,
    scenarios=scenarios,
    robot=EMBODIMENT,
    demonstrator=FakeEnvironment.expert,
    annotator=FakeEnvironment.annotate,
    shuffle=FakeEnvironment.shuffle,
)

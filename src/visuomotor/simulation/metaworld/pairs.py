"""Pairs of tasks that only the words tell apart: opposite directions of one joint, started midway.

Both sides of a pair share the scene, the start distribution and the look of every frame at the start; each keeps the
benchmark's own success predicate and scripted expert. Neither is solved at the start.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from visuomotor.simulation.rendering import mujoco

__all__ = ["PAIRS", "PREFIX", "Pair", "pair_of", "start_midway"]

PREFIX = "pair:"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two opposite tasks, their common box of object positions (metres), and the joint value to start from.

    body: whose joint starts at `midway` (metres or radians); None leaves the joint as the scene has it.
    """

    tasks: tuple[str, str]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    body: str | None
    midway: float = 0.0

    def other(self, task: str) -> str:
        """The opposite task."""
        return self.tasks[1] if task == self.tasks[0] else self.tasks[0]


PAIRS = (
    Pair(
        tasks=("drawer-open", "drawer-close"),
        low=(-0.1, 0.9, 0.0),
        high=(0.1, 0.9, 0.0),
        body="drawer_link",
        midway=-0.075,
    ),
    Pair(
        tasks=("window-open", "window-close"),
        low=(-0.1, 0.7, 0.16),
        high=(0.1, 0.9, 0.16),
        body="windowb_a",
        midway=0.1,
    ),
    Pair(
        tasks=("door-lock", "door-unlock"),
        low=(-0.1, 0.8, 0.15),
        high=(0.1, 0.85, 0.15),
        body="lock_link",
        midway=0.785,
    ),
    Pair(
        tasks=("handle-press", "handle-pull"),
        low=(-0.1, 0.8, -0.001),
        high=(0.1, 0.9, 0.001),
        body="handle_link",
        midway=-0.05,
    ),
    Pair(tasks=("faucet-open", "faucet-close"), low=(-0.05, 0.8, 0.0), high=(0.05, 0.85, 0.0), body=None),
)


def pair_of(task: str) -> Pair | None:
    """The pair of a task named `pair:NAME`; None for a task of the benchmark itself."""
    if not task.startswith(PREFIX):
        return None
    name = task.removeprefix(PREFIX)
    return next((pair for pair in PAIRS if name in pair.tasks), None)


def start_midway(pair: Pair, inner: Any) -> None:
    """Put the pair's joint midway, at rest, with the arm settled from one and the same state for both sides."""
    model, data = inner.model, inner.data
    mujoco.mj_resetData(model, data)
    inner._reset_hand()
    data.qvel[:] = 0
    if pair.body is not None:
        joint = int(np.argmax(model.jnt_bodyid == model.body(pair.body).id))
        data.qpos[model.jnt_qposadr[joint]] = pair.midway

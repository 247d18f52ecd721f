"""A policy that moves a little, quick requests, and ALOHA described by poses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from visuomotor.contract import ActionChunk, Embodiment, Observation
from visuomotor.models.dm0 import robots
from visuomotor.serving.robochallenge.connection import Limits
from visuomotor.serving.robochallenge.jobs import JobSettings
from visuomotor.session import Session

LIMITS = Limits(seconds=20.0, pause=0.01)
HASTY = Limits(seconds=0.3, pause=0.01)
SETTINGS = JobSettings(prompt="open the drawer", seconds=30, patience=30, poll=0.02, pause=0.01, ended=2, failures=3)

ROBOTS = {  # with pictures that are quickly made
    name: replace(robot, cameras=tuple(replace(c, height=32, width=48) for c in robot.cameras))
    for name, robot in robots.ROBOTS.items()
}


def poses_of_two_arms() -> Embodiment:
    """ALOHA as the second generation speaks of it: position, rotation and gripper of both arms."""
    single = ROBOTS["arx5"]

    def both(components: tuple) -> tuple:
        return tuple(replace(c, name=f"{side}_{c.name}") for side in ("left", "right") for c in components)

    return replace(ROBOTS["aloha"], state=both(single.state), action=both(single.action))


@dataclass
class Nudge:
    """Moves the first number forward by `step` with every action, and remembers what it was asked."""

    embodiment: Embodiment
    horizon: int = 3
    step: float = 0.01
    spoil: Callable[[np.ndarray], np.ndarray] = lambda actions: actions
    asked: list[Observation] = field(default_factory=list)
    executed: list[int | None] = field(default_factory=list)

    def infer(
        self, observations: Sequence[Observation], sessions: Sequence[Session | None] | None = None
    ) -> list[ActionChunk]:
        self.asked += observations
        self.executed += [s.executed for s in sessions or () if s is not None]
        chunks = []
        for observation in observations:
            actions = np.tile(observation.state, (self.horizon, 1))
            actions[:, 0] += self.step * np.arange(1, self.horizon + 1)
            chunks.append(ActionChunk(actions=self.spoil(actions), embodiment=self.embodiment))
        return chunks

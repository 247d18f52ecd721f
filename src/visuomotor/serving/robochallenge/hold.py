"""A policy that stays where it is: the way to the robot and back can be rehearsed without moving it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visuomotor.contract import ActionChunk, Embodiment, Observation
from visuomotor.session import Session

__all__ = ["Hold"]


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Answers every observation with its own state, `horizon` times; for robots whose actions are absolute."""

    embodiment: Embodiment
    horizon: int = 5

    def infer(
        self,
        observations: Sequence[Observation],
        sessions: Sequence[Session | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[ActionChunk]:
        """One chunk per observation, as a Policy gives."""
        return [
            ActionChunk(actions=np.tile(o.state, (self.horizon, 1)), embodiment=self.embodiment) for o in observations
        ]

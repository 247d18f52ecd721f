"""Estimated position and motion of one action component. numpy only."""

from typing import Optional

import numpy as np

from visuomotor_client.limiting import ROUNDING
from visuomotor_client.robot import Part

__all__ = ["MotionTrack"]

Values = Optional[np.ndarray]


class MotionTrack:
    """Dead reckoning: the last measurement of a component, advanced by the commands that were sent since.

    A state that is lost or late leaves the estimate to the commands alone. So does a state that repeats its last
    numbers to the bit: a sensor that is stuck looks like a robot at rest, and only the commands tell them apart.

    Attributes (float64[n], in the component's unit; None while unknown):
        position: estimated position.
        target: position that the last command led to, for components whose commands name positions.
        motion: motion of the last control step.
        direction: sign of the last motion that was not zero, by dimension.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.reset()

    def reset(self) -> None:
        """Forget everything: the robot is at rest somewhere."""
        self._measured: Values = None
        self.position: Values = None
        self.target: Values = None
        self.motion = np.zeros(self.part.size)
        self.direction = np.zeros(self.part.size)

    def rebase(self) -> None:
        """Compare the next command with the estimated position instead of the last target; the motion stays."""
        self.target = None

    def halt(self) -> None:
        """Take the component for one at rest."""
        self.motion = np.zeros(self.part.size)

    def observe(self, state: np.ndarray) -> None:
        """Take over a measured state float64[s], if its numbers are new."""
        values = self.part.measured(state)
        if values is None or (self._measured is not None and np.array_equal(values, self._measured)):
            return
        self._measured = self.position = values

    def lose(self) -> None:
        """Forget the position: a command was sent whose target is unknown."""
        self.position = self.target = None

    def advance(self, motion: np.ndarray) -> None:
        """Record a difference per step that was sent."""
        if self.position is not None:
            self.position = self.position + motion
        self._record(motion)

    def move_to(self, target: np.ndarray, before: Values) -> None:
        """Record a target that was sent, and the position `before` it.

        The estimate advances by the motion and does not jump to the target, because somebody may move a robot that is
        sent the same target again and again.
        """
        self.target = target
        motion = np.zeros(self.part.size) if before is None else target - before
        if self.position is None or (self.part.kind == "rotation" and motion.any()):
            self.position = target  # differences of rotations do not add up
        elif self.part.kind != "rotation":
            self.position = self.position + motion
        self._record(motion)

    def _record(self, motion: np.ndarray) -> None:
        self.motion = motion
        moving = np.abs(motion) > ROUNDING
        self.direction = np.where(moving, np.sign(motion), self.direction)

"""What SIMPLER's two robots are sent for an action of CogACT. numpy only.

An action is [dx dy dz | droll dpitch dyaw | gripper], in metres and radians, the gripper 1 for open and 0 for closed;
SIMPLER wants a rotation vector, and a gripper command of its own for each robot.
"""

from typing import Literal

import numpy as np

STICKY_STEPS = 10
TRIGGER = 0.5


def rotation_vector(rpy: np.ndarray) -> np.ndarray:
    """Turns about the fixed axes x, y, z, in this order, as one: float[3] -> float64[3], axis times angle."""
    (sx, sy, sz), (cx, cy, cz) = (function(np.asarray(rpy, np.float64) / 2) for function in (np.sin, np.cos))
    w = cx * cy * cz + sx * sy * sz
    v = np.array([sx * cy * cz - cx * sy * sz, cx * sy * cz + sx * cy * sz, cx * cy * sz - sx * sy * cz])
    sine = np.linalg.norm(v)
    if sine < 1e-12:
        return np.zeros(3)
    sign = -1.0 if w < 0 else 1.0  # the shorter way round
    return sign * v / sine * 2 * np.arctan2(sine, abs(w))


class StickyGripper:
    """The Google robot's gripper: a change of the target by more than 0.5 is a command that lasts 10 steps.

    Commands are relative, above 0 closes. A change counts from the target that the last command was given at; meanwhile
    no other begins.
    """

    def __init__(self, steps: int = STICKY_STEPS) -> None:
        if steps < 1:
            raise ValueError(f"A command lasts at least 1 step; given steps={steps}.")
        self.steps = steps
        self.reset()

    def reset(self) -> None:
        """A new episode starts: the next target is where the gripper is."""
        self._committed: float | None = None
        self._command, self._left = 0.0, 0

    def command(self, target: float) -> float:
        """What this step sends for a target, 1 open, 0 closed."""
        if self._committed is None:
            self._committed = target
        change = self._committed - target
        if abs(change) > TRIGGER and not self._left:
            self._command, self._left, self._committed = change, self.steps, target
        if not self._left:
            return change
        self._left -= 1
        return self._command


class SimplerActions:
    """Actions float[7] of a policy -> float32[7] for SIMPLER's environment of a robot; `reset` between episodes."""

    def __init__(self, robot: Literal["google_robot", "widowx"]) -> None:
        if robot not in ("google_robot", "widowx"):
            raise ValueError(f"SIMPLER has no robot {robot!r} here; choose 'google_robot' or 'widowx'.")
        self._sticky = StickyGripper() if robot == "google_robot" else None

    def reset(self) -> None:
        """A new episode starts."""
        if self._sticky is not None:
            self._sticky.reset()

    def __call__(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, np.float64)
        if action.shape != (7,):
            raise ValueError(f"An action is {list(action.shape)}; expected [7]: position, Euler angles, gripper.")
        if self._sticky is not None:
            gripper = self._sticky.command(float(action[6]))
        else:
            gripper = 1.0 if action[6] > TRIGGER else -1.0
        return np.concatenate([action[:3], rotation_vector(action[3:6]), [gripper]]).astype(np.float32)

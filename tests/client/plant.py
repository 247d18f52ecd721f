"""Simulated robot that does exactly what it is sent, and an independent account of its limits.

Nothing here is shared with the filter: positions are summed up from the commands that leave it.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from tests.client.point import component

HZ = 10.0
TINY = 2e-6
KEEP_OUT = ((-0.1, -0.1, 0.2), (0.1, 0.15, 0.4))
WORKSPACE = ((-0.25, -0.2, 0.12), (0.22, 0.28, 0.45))
RANGES: dict[str, tuple[list[float], list[float]]] = {
    "joint": ([-1.1, -2.0], [1.1, 2.0]),
    "position": ([-0.3, -0.3, 0.1], [0.3, 0.3, 0.5]),
    "rotation": ([-3.1, -3.1, -3.1], [3.1, 3.1, 3.1]),
    "gripper": ([0.0], [0.8]),
    "velocity": ([-0.5, -0.5], [0.5, 0.5]),
    "other": ([-1.0], [1.0]),
}
STEPS = {"joint": 0.3, "position": 0.03, "rotation": 0.2, "gripper": 0.5, "velocity": 0.5, "other": 0.2}


@dataclass(frozen=True)
class Axis:
    """One component of the simulated robot. `bounded`: position limits are declared. `measured`: in the state."""

    kind: str
    reference: str
    bounded: bool = True
    measured: bool = True

    @property
    def is_checked(self) -> bool:
        """Whether the filter can tell how it moves: not by a difference to a start that is not measured."""
        return self.kind == "velocity" or self.reference != "chunk_start" or self.in_state

    @property
    def in_state(self) -> bool:
        return self.measured and self.kind not in ("velocity", "other")

    @property
    def size(self) -> int:
        return len(RANGES[self.kind][0])

    def described(self, name: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """(state component, action component) of an embodiment."""
        low, high = RANGES[self.kind]
        other: dict[str, Any] = {"unit": "rad", "rotation": "axis_angle"} if self.kind == "rotation" else {}
        if self.kind == "gripper":
            other = {"unit": "opening", "opened": 0.8, "closed": 0.0}
        limits = {"low": low, "high": high} if self.bounded else {}
        state = component(name, self.kind, self.size, **limits, **other) if self.in_state else None
        if self.reference == "step":
            most = STEPS[self.kind]
            limits = {"low": [-most] * self.size, "high": [most] * self.size}
        elif self.reference == "chunk_start":
            limits = {}
        return state, component(name, self.kind, self.size, reference=self.reference, **limits, **other)


@dataclass
class Plant:
    """Positions and motions of all axes, float64, and their limits. `where` are the axes' places in a command."""

    axes: list[Axis]
    limits: dict[str, Any]
    position: list[np.ndarray]
    motion: list[np.ndarray] = field(init=False)
    before: list[np.ndarray] = field(init=False)
    # Motion of the last step before this one, and whether limits held when it was sent.
    last: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        ends = np.cumsum([0, *(axis.size for axis in self.axes)])
        self.where = [slice(a, b) for a, b in pairwise(ends)]
        self.before = list(self.position)
        self.motion = [np.zeros(axis.size) for axis in self.axes]
        self.last = [np.zeros(axis.size) for axis in self.axes]

    def embodiment(self) -> dict[str, Any]:
        described = [axis.described(f"part{i}") for i, axis in enumerate(self.axes)]
        return {
            "name": "plant",
            "control_hz": HZ,
            "state": [state for state, _ in described if state is not None],
            "action": [action for _, action in described],
        }

    def state(self) -> np.ndarray:
        """Measured positions, float64[s]."""
        values = [p for axis, p in zip(self.axes, self.position, strict=True) if axis.in_state]
        return np.concatenate([*values, np.zeros(0)])

    def execute(self, command: np.ndarray | None, start: list[np.ndarray]) -> None:
        """Do what is sent; without a command keep targets and velocities. `start`: positions at the chunk's start."""
        self.before, self.last = list(self.position), self.motion
        self.motion = []
        for i, axis in enumerate(self.axes):
            values = None if command is None else command[self.where[i]].astype(np.float64)
            old = self.position[i]
            if values is None:
                new = old + (self.last[i] if axis.kind == "velocity" else 0.0)
            elif axis.reference == "step" or axis.kind == "velocity":
                new = old + values
            else:
                new = values + (start[i] if axis.reference == "chunk_start" else 0.0)
            self.position[i] = new
            sent = values if values is not None and axis.reference == "step" else new - old
            self.motion.append(sent)

    def require_limits(self, command: np.ndarray) -> None:
        """Assert that the last step kept every limit."""
        assert command.dtype == np.float32
        assert np.isfinite(command).all()
        for i, axis in enumerate(self.axes):
            self._require_position(i, axis, command[self.where[i]])
            self._require_motion(i, axis)

    def _require_position(self, i: int, axis: Axis, values: np.ndarray) -> None:
        low, high = (np.array(side) for side in RANGES[axis.kind])
        position = self.position[i]
        if axis.reference == "step":
            assert (np.abs(values) <= STEPS[axis.kind] + TINY).all()
            limited = axis.bounded and axis.kind not in ("rotation", "velocity", "other") and axis.measured
        else:
            limited = axis.bounded and axis.kind not in ("velocity", "other")
            limited &= axis.reference == "absolute" or (axis.kind != "rotation" and axis.measured)
        if limited:
            assert (position >= low - TINY).all(), (axis, position)
            assert (position <= high + TINY).all(), (axis, position)
        if axis.kind == "position" and "workspace" in self.limits:
            assert (position >= np.array(WORKSPACE[0]) - TINY).all()
            assert (position <= np.array(WORKSPACE[1]) + TINY).all()
        if axis.kind == "position" and "keep_out" in self.limits:
            for share in np.linspace(0, 1, 5):
                point = self.before[i] + share * (position - self.before[i])
                assert not ((point > np.array(KEEP_OUT[0]) + TINY) & (point < np.array(KEEP_OUT[1]) - TINY)).all()

    def _require_motion(self, i: int, axis: Axis) -> None:
        motion = self.motion[i]
        if axis.kind == "joint" and "velocity" in self.limits:
            assert (np.abs(motion) <= self.limits["velocity"] / HZ + TINY).all(), (axis, motion)
        if axis.kind == "joint" and "acceleration" in self.limits:
            change = motion - self.last[i]
            assert (np.abs(change) <= self.limits["acceleration"] / HZ**2 + 2 * TINY).all(), (axis, change)
        if axis.kind == "position" and "step_length" in self.limits:
            assert np.linalg.norm(motion) <= self.limits["step_length"] + TINY
        if axis.kind == "gripper" and "gripper_rate" in self.limits:
            assert (np.abs(motion) <= self.limits["gripper_rate"] * 0.8 / HZ + TINY).all()
        if axis.kind == "rotation" and "step_angle" in self.limits:
            turn = Rotation.from_rotvec(motion)
            if axis.reference != "step":
                turn = Rotation.from_rotvec(self.before[i]).inv() * Rotation.from_rotvec(self.position[i])
            assert turn.magnitude() <= self.limits["step_angle"] + 1e-5

    def require_slower(self) -> None:
        """Assert that no motion of the last step was greater than the one before it, or had another direction."""
        for axis, motion, last in zip(self.axes, self.motion, self.last, strict=True):
            if axis.is_checked:
                assert (motion * last >= -TINY).all(), (axis, motion, last)
                assert (np.abs(motion) <= np.abs(last) + TINY).all(), (axis, motion, last)
                if axis.kind != "joint" or "acceleration" not in self.limits:
                    assert (np.abs(motion) <= TINY).all(), (axis, motion)

    def braking(self) -> list[np.ndarray]:
        """Distance in which each axis can stop from its present motion, one value per dimension."""
        distances = []
        for axis, motion in zip(self.axes, self.motion, strict=True):
            speed = np.abs(motion)
            if axis.kind != "joint" or "acceleration" not in self.limits:
                distances.append(np.zeros(axis.size))
                continue
            slower = self.limits["acceleration"] / HZ**2
            steps = np.floor(speed / slower)
            distances.append(steps * speed - slower * steps * (steps + 1) / 2)
        return distances

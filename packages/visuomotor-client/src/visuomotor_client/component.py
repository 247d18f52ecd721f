"""One component of the action: where it was last sent, and what the limits leave of a command to it. numpy only."""

from typing import Any, Optional

import numpy as np

from visuomotor_client import limiting
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.robot import Part
from visuomotor_client.rotation import equivalent, is_known, is_linear, to_quaternion
from visuomotor_client.workspace import Box, nearest_free

__all__ = ["Limiter", "limiters"]

IDENTITY = {
    "quat_xyzw": (0, 0, 0, 1),
    "quat_wxyz": (1, 0, 0, 0),
    "rot6d": (1, 0, 0, 0, 1, 0),
    "matrix": (1, 0, 0, 0, 1, 0, 0, 0, 1),
}
Values = Optional[np.ndarray]


def limiters(parts: tuple[Part, ...], limits: SafetyLimits, control_hz: float) -> list["Limiter"]:
    """One for each component. Raises ValueError for limits that fit no component, or that no command could keep."""
    joints = sum(part.size for part in parts if part.kind == "joint")
    velocity = _per_joint(limits.velocity, joints, "velocity", control_hz)
    acceleration = _per_joint(limits.acceleration, joints, "acceleration", control_hz**2)
    if (limits.workspace is not None or limits.keep_out) and not any(_is_end_effector(part) for part in parts):
        raise ValueError("A workspace or keep-out box needs an action component of kind 'position' with 3 dimensions.")
    found, place = [], 0
    for part in parts:
        mine = slice(place, place + part.size) if part.kind == "joint" else slice(0)
        place = max(place, mine.stop)
        own = [None if limit is None or part.kind != "joint" else limit[mine] for limit in (velocity, acceleration)]
        found.append(Limiter(part, limits, control_hz, velocity=own[0], acceleration=own[1]))
    return found


class Limiter:
    """Keeps one component within the limits.

    `measured` and `start` are the states float64[s] now and at the chunk's beginning, None where they are not known.
    `velocity` and `acceleration` are per control step (squared). `low` and `high` are the limits of its numbers.
    """

    def __init__(
        self, part: Part, limits: SafetyLimits, control_hz: float, *, velocity: Values, acceleration: Values
    ) -> None:
        self.part, self.limits, self.velocity, self.acceleration = part, limits, velocity, acceleration
        self.gripper_rate = None if limits.gripper_rate is None else limits.gripper_rate / control_hz
        self.by_number = part.kind != "rotation" or str(part.rotation) not in IDENTITY
        self.workspace = limits.workspace if _is_end_effector(part) else None
        self.keep_out = [_widened(box) for box in limits.keep_out] if _is_end_effector(part) else []
        self.low, self.high = np.full(part.size, -np.inf), np.full(part.size, np.inf)
        if self.by_number:
            self.low, self.high = part.low, part.high
        if part.base == "absolute":
            self.low, self.high = self._in_workspace(self.low, self.high)
        self._require_possible()
        self.reset()

    def reset(self) -> None:
        """Forget where it was sent."""
        self._target: Values = None
        self._motion, self._direction = np.zeros(self.part.size), np.zeros(self.part.size)

    def limited(self, values: np.ndarray, measured: Values, start: Values, reasons: list[str]) -> np.ndarray:
        """What is left of a command; adds to `reasons` what was wrong with it, else gives it back to the last bit."""
        base, before, known = self._base(measured, start), self._before(measured), len(reasons)
        kept = limiting.bounded(values, self.part.low, self.part.high, "limit", reasons) if self.by_number else values
        limit = {"position": self._position, "rotation": self._rotation, "gripper": self._gripper}
        found = limit.get(self.part.kind, self._joint)(kept, base, before, reasons)
        if len(reasons) == known:
            return values
        return np.clip(found, self.part.low, self.part.high) if self.by_number else found

    def resting(self, measured: Values, start: Values) -> Values:
        """The command that leaves the component where it is; None where that is not known."""
        if self.part.rests_at_zero:
            return np.zeros(self.part.size) if self.by_number else self._identity()
        base, before = self._base(measured, start), self._before(measured)
        return None if base is None or before is None else before - base

    def commit(self, sent: np.ndarray, measured: Values, start: Values) -> None:
        """Remember where it was sent, and how far that was."""
        base, before = self._base(measured, start), self._before(measured)
        if base is None:
            return
        self._target = base + sent
        self._motion = np.zeros(self.part.size) if before is None else self._target - before
        moved = np.abs(self._motion) > limiting.ROUNDING
        self._direction = np.where(moved, np.sign(self._motion), self._direction)

    # Where it is ------------------------------------------------------------------------------------------------

    def _base(self, measured: Values, start: Values) -> Values:
        """What a command is added to; None where that is not known."""
        if self.part.base == "absolute":
            return np.zeros(self.part.size)
        origin = measured if self.part.base == "step" else start
        return None if origin is None else self.part.measured(origin)

    def _before(self, measured: Values) -> Values:
        """Where the last command went: for differences per step, and for a first command, where the robot is."""
        if self.part.base != "step" and self._target is not None:
            return self._target
        before = None if measured is None else self.part.measured(measured)
        return before if before is None or self.part.base != "absolute" else np.clip(before, self.low, self.high)

    def _box(self, base: np.ndarray, before: Values) -> Box:
        """Where the target may be. Differences per step may stay as far outside as the robot already is."""
        if self.part.base == "absolute":
            return self.low, self.high
        low, high = self._in_workspace(self.part.state_low, self.part.state_high)
        if self.part.base == "chunk_start":
            low, high = np.maximum(low, base + self.part.low), np.minimum(high, base + self.part.high)
        elif before is not None:
            low, high = np.minimum(low, before), np.maximum(high, before)
        return low, np.maximum(low, high)

    def _in_workspace(self, low: np.ndarray, high: np.ndarray) -> Box:
        if self.workspace is None:
            return low, high
        return np.maximum(low, self.workspace[0]), np.minimum(high, self.workspace[1])

    def _identity(self) -> np.ndarray:
        """No turn at all."""
        return np.array(IDENTITY.get(str(self.part.rotation), np.zeros(self.part.size)), np.float64)

    # What is left -----------------------------------------------------------------------------------------------
    # A limit that is asked for and cannot be checked, because the state is not known, leaves nothing ("state").

    def _joint(self, values: np.ndarray, base: Values, before: Values, reasons: list[str]) -> np.ndarray:
        if base is None or before is None:
            reasons += ["state"] * (self.velocity is not None or self.acceleration is not None)
            return values
        low, high = self._box(base, before)
        before = np.clip(before, low, high)
        room = (before - low, high - before)
        motion = limiting.joint_motion(
            base + values - before, self._motion, room, self.velocity, self.acceleration, reasons
        )
        return before + motion - base

    def _position(self, values: np.ndarray, base: Values, before: Values, reasons: list[str]) -> np.ndarray:
        length = self.limits.step_length
        if base is None:  # a difference from nobody knows where: its length can be limited, if it is one per step
            unknown = self.part.base == "chunk_start" and length is not None
            reasons += ["state"] * (unknown or bool(self.keep_out) or self.workspace is not None)
            here = np.zeros(self.part.size)
            return limiting.position_target(values, here, here - np.inf, here + np.inf, [], length, reasons)
        reasons += ["state"] * (before is None and length is not None)
        low, high = self._box(base, before)
        if self.part.base != "step" and before is not None:
            before = nearest_free(before, low, high, self.keep_out)
        return limiting.position_target(base + values, before, low, high, self.keep_out, length, reasons) - base

    def _rotation(self, values: np.ndarray, base: Values, before: Values, reasons: list[str]) -> np.ndarray:
        part, most = self.part, self.limits.step_angle
        rotation, scale = str(part.rotation), limiting.degrees(part.unit)
        if not is_known(rotation, part.size):  # never together with a limit of the angle
            return values
        if part.base == "step":  # a turn of its own, from no turn at all
            base, before = np.zeros(part.size), self._identity()
        if base is None or before is None:
            reasons += ["state"] * (most is not None)
            base = np.zeros(part.size) if base is None else base
            before = base + values
        if to_quaternion(base + values, rotation, scale) is None or to_quaternion(before, rotation, scale) is None:
            reasons.append("no_rotation")
            return values
        if most is None:
            return values
        found = limiting.rotation_values(base + values, before, rotation, scale, most, reasons) - base
        if not is_linear(rotation):
            return found
        repeated = equivalent(found, values, rotation, scale)  # on the side of the range where the command was
        inside = [v for v in (found, repeated) if (v >= part.low).all() and (v <= part.high).all()]
        return inside[0] if inside else np.clip(before - base, part.low, part.high)

    def _gripper(self, values: np.ndarray, base: Values, before: Values, reasons: list[str]) -> np.ndarray:
        if base is None or before is None:
            reasons += ["state"] * (self.gripper_rate is not None)
            return values
        part = self.part
        ends = (part.state_opened, part.state_closed) if part.base == "step" else (part.opened, part.closed)
        motion = limiting.gripper_motion(
            base + values - before,
            self._direction,
            abs((ends[0] or 0.0) - (ends[1] or 0.0)),
            self.limits.gripper_hysteresis,
            self.gripper_rate,
            reasons,
        )
        return before + motion - base

    def _require_possible(self) -> None:
        """Refuse limits that no command could keep."""
        part = self.part
        if part.kind == "rotation" and self.limits.step_angle and not is_known(str(part.rotation), part.size):
            raise ValueError(
                f"The angle of {part.name!r} cannot be limited: {part.size} numbers in the format {part.rotation!r} "
                "are no rotation that is known here. Leave step_angle out, or correct the embodiment."
            )
        if part.base == "chunk_start" and not self.by_number:
            raise ValueError(
                f"Action component {part.name!r} is a difference of {part.rotation!r} numbers, which is no rotation; "
                "describe it as Euler angles or axis_angle."
            )
        if part.base != "absolute" or not _is_end_effector(part):
            return
        if (self.low > self.high).any() or nearest_free(np.zeros(3), self.low, self.high, self.keep_out) is None:
            raise ValueError(f"The safety limits leave {part.name!r} no place; check the workspace and keep-out boxes.")


def _is_end_effector(part: Part) -> bool:
    return part.kind == "position" and part.size == 3


def _per_joint(limit: Any, joints: int, name: str, rate: float) -> Values:
    """One limit per joint, per control step (squared)."""
    if limit is None:
        return None
    values = np.full(joints, limit) if np.ndim(limit) == 0 else np.asarray(limit, np.float64)
    if not joints or len(values) != joints:
        raise ValueError(f"The safety limit {name} has {len(values)} values, but the action has {joints} joints.")
    return values / rate


def _widened(box: Any) -> Box:
    """A keep-out box, larger by what rounding to float32 could enter it."""
    low, high = np.asarray(box[0], np.float64), np.asarray(box[1], np.float64)
    margin = limiting.ROUNDING * max(1.0, float(np.abs(box).max()))
    return low - margin, high + margin

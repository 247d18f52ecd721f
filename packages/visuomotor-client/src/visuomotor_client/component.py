"""Limits of one action component, applied to its commands. numpy only."""

from collections.abc import Callable
from typing import Any

import numpy as np

from visuomotor_client import limiting
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.motion import MotionTrack, Values
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
MEASUREMENT_ERROR = 0.01  # of a component's range
MOST_ANGLE = 100.0  # rad, at which float32 resolves 8e-6 rad
Limit = Callable[[np.ndarray, np.ndarray, Values, list[str]], np.ndarray]


def limiters(parts: tuple[Part, ...], limits: SafetyLimits, control_hz: float) -> list["Limiter"]:
    """Return one limiter per component.

    Raises:
        ValueError: a limit fits no component, or no command could keep it.
    """
    joints = sum(part.size for part in parts if part.kind == "joint")
    velocity = _per_joint(limits.velocity, joints, "velocity")
    acceleration = _per_joint(limits.acceleration, joints, "acceleration")
    if (limits.workspace is not None or limits.keep_out) and not any(part.is_end_effector for part in parts):
        raise ValueError("A workspace or keep-out box needs an action component of kind 'position' with 3 dimensions.")
    result, joint = [], 0
    for part in parts:
        limiter = Limiter(part, limits, control_hz)
        if part.kind == "joint":
            dims = slice(joint, joint + part.size)
            speed = part.velocity if velocity is None else velocity[dims]
            limiter.velocity = None if speed is None else speed / control_hz
            limiter.acceleration = None if acceleration is None else acceleration[dims] / control_hz**2
            joint = dims.stop
        result.append(limiter)
    return result


class Limiter:
    """Limits of one component, and the motion that they are measured against.

    Attributes:
        velocity, acceleration: float64[n] per control step (squared); None: not limited.
        low, high: float64[n], bounds of the command's own numbers.
        track: estimated position and last motion.
    """

    def __init__(self, part: Part, limits: SafetyLimits, control_hz: float) -> None:
        self.part, self.limits = part, limits
        self.velocity: Values = None
        self.acceleration: Values = None
        self.gripper_rate = None if limits.gripper_rate is None else limits.gripper_rate / control_hz
        self.by_number = part.kind != "rotation" or str(part.rotation) not in IDENTITY
        self.workspace = limits.workspace if part.is_end_effector else None
        self.keep_out = [_widened(box) for box in limits.keep_out] if part.is_end_effector else []
        self.low, self.high = np.full(part.size, -np.inf), np.full(part.size, np.inf)
        if self.by_number:
            self.low, self.high = part.low, part.high
        if part.base == "absolute":
            self.low, self.high = self._in_workspace(self.low, self.high)
        self.track = MotionTrack(part)
        # False after a command beyond the limits was sent as it was (shadow mode).
        self._within = True
        self._sent: Values = None

    def reset(self) -> None:
        """Forget position and motion."""
        self.track.reset()
        self._within = True
        self._sent = None

    def limited(self, values: np.ndarray, start: Values, reasons: list[str]) -> np.ndarray:
        """Return the part of a command float64[n] that the limits allow.

        A command within them comes back to the last bit. `start` is the state float64[s] at the chunk's start. The
        names of limits that changed the command are added to `reasons`.
        """
        base, before, count = self._base(start), self._before(), len(reasons)
        bounded = values
        if self.by_number:
            bounded = limiting.bounded(values, self.part.low, self.part.high, "limit", reasons)
        if base is None:
            # A difference to an unknown position: nothing but its own numbers can be checked.
            reasons += ["start"] * (self.part.state is not None)
            return bounded
        by_kind: dict[str, Limit] = {
            "position": self._position,
            "rotation": self._rotation,
            "gripper": self._gripper,
        }
        result = by_kind.get(self.part.kind, self._joint)(bounded, base, before, reasons)
        if len(reasons) == count:
            return values
        return np.clip(result, self.part.low, self.part.high) if self.by_number else result

    def resting(self, start: Values, *, stopped: bool) -> Values:
        """Return the command float64[n] that leaves the component where it is; None where there is none.

        `stopped`: a component outside its limits stays there. Otherwise its first command is the nearest one inside.
        """
        if not self._within:
            # Beyond its limits there is no braking within them, so stop at once.
            self.track.halt()
            self._within = True
        if self.part.rests_at_zero:
            return np.zeros(self.part.size) if self.by_number else self._identity()
        base, before = self._base(start), self._before()
        if self.part.base == "chunk_start" and self.part.state is None:
            # Never measured: the same difference to the same start is the same place, whichever that is.
            return self._sent
        if base is None or before is None or self._is_outside(base, stopped=stopped):
            return None
        return before - base

    @property
    def is_under_way(self) -> bool:
        """Whether the last command was a velocity other than zero, which lasts until the next command."""
        return self.part.kind == "velocity" and self._sent is not None and bool(self._sent.any())

    def repeated(self, start: Values) -> Values:
        """Return the command float64[n] that leads where the last one led, whatever the limits; None if unknown."""
        if self.part.rests_at_zero:
            return self.resting(start, stopped=True)
        base = self._base(start)
        if self.part.base == "absolute" or base is None:
            return self._sent
        here = self.track.position if self.track.target is None else self.track.target
        return None if here is None else here - base

    def _is_outside(self, base: np.ndarray, *, stopped: bool) -> bool:
        """Return whether staying here would take a command beyond the limits, so that clipping it would be a motion.

        That happens to targets that were never limited (shadow mode), to a robot that was found outside, and to
        differences whose bounds do not reach from the chunk's start to here. A measurement may be off a little.
        """
        here = self.track.position if self.track.target is None else self.track.target
        if here is None or not self.by_number:
            return False
        # Rotations repeat, so that only the command's own numbers have bounds.
        rotation = self.part.kind == "rotation"
        low, high = (base + self.low, base + self.high) if rotation else self._box(base, here)
        inside = np.clip(here, low, high)
        if self.keep_out:
            free = nearest_free(here, low, high, self.keep_out)
            inside = inside if free is None else free
        margin = limiting.ROUNDING * np.maximum(1.0, np.abs(here))
        if self.track.target is None:
            if not stopped:
                return False
            travel = high - low
            margin = np.maximum(margin, np.where(np.isfinite(travel), MEASUREMENT_ERROR * travel, 0.0))
        return bool((np.abs(inside - here) > margin).any())

    def commit(self, sent: Values, start: Values, *, within: bool = True) -> None:
        """Record what was sent, None for nothing. `within`: it passed the limits."""
        if sent is None:
            self.track.halt()  # without a command the robot stays where its last one led
            return
        self._within, self._sent = within, sent
        if self.part.base == "step":
            self.track.advance(sent)
            return
        base, before = self._base(start), self._before()
        if base is None:
            self.track.lose()
        else:
            self.track.move_to(base + sent, before)

    # Position -------------------------------------------------------------------------------------------------------

    def _base(self, start: Values) -> Values:
        """Position that a command is added to; None where it is unknown.

        Differences per step count from the estimated position. Where that is unknown, zero serves as well, because
        every limit that depends on it was refused.
        """
        if self.part.base == "chunk_start":
            return None if start is None else self.part.measured(start)
        if self.part.base == "step" and self.track.position is not None:
            return self.track.position
        return np.zeros(self.part.size)

    def _before(self) -> Values:
        """Position at which this control step begins; None where it is unknown."""
        if self.part.base == "step":
            return self._base(None)
        if self.track.target is not None:
            return self.track.target
        before = self.track.position
        return before if before is None or self.part.base != "absolute" else np.clip(before, self.low, self.high)

    def _box(self, base: np.ndarray, before: Values) -> Box:
        """Allowed positions. Differences per step may stay as far outside as the robot already is."""
        low, high = self.position_limits()
        if self.part.base == "absolute":
            return low, high
        if self.part.base == "chunk_start":
            low, high = np.maximum(low, base + self.part.low), np.minimum(high, base + self.part.high)
        elif self.track.position is None:
            return np.full_like(base, -np.inf), np.full_like(base, np.inf)
        elif before is not None:
            low, high = np.minimum(low, before), np.maximum(high, before)
        return low, np.maximum(low, high)

    def position_limits(self) -> Box:
        """Return the limits float64[n] of the position, infinite where there are none."""
        if self.part.base == "absolute":
            return self.low, self.high
        return self._in_workspace(*self.part.measured_limits())

    def _in_workspace(self, low: np.ndarray, high: np.ndarray) -> Box:
        if self.workspace is None:
            return low, high
        return np.maximum(low, self.workspace[0]), np.minimum(high, self.workspace[1])

    def _identity(self) -> np.ndarray:
        """Rotation by zero, in the component's format."""
        return np.array(IDENTITY.get(str(self.part.rotation), np.zeros(self.part.size)), np.float64)

    # Limits by kind -------------------------------------------------------------------------------------------------

    def _joint(self, values: np.ndarray, base: np.ndarray, before: Values, reasons: list[str]) -> np.ndarray:
        if before is None:
            return values
        low, high = self._box(base, before)
        before = np.clip(before, low, high)
        motion = limiting.joint_motion(
            base + values - before,
            self.track.motion,
            (before - low, high - before),
            self.velocity,
            self.acceleration,
            reasons,
        )
        return before + motion - base

    def _position(self, values: np.ndarray, base: np.ndarray, before: Values, reasons: list[str]) -> np.ndarray:
        low, high = self._box(base, before)
        if self.part.base != "step" and before is not None:
            before = nearest_free(before, low, high, self.keep_out)
        target = limiting.position_target(
            base + values, before, low, high, self.keep_out, self.limits.step_length, reasons
        )
        return target - base

    def _rotation(self, values: np.ndarray, base: np.ndarray, before: Values, reasons: list[str]) -> np.ndarray:
        part, most = self.part, self.limits.step_angle
        rotation, scale = str(part.rotation), limiting.degrees(part.unit)
        if not is_known(rotation, part.size) or (most is None and is_linear(rotation)):
            return values  # unknown formats never come with a limit of the angle; angles are always rotations
        if part.base == "step":  # a rotation of its own, counted from the identity
            base, before = np.zeros(part.size), self._identity()
        if before is None:
            before = base + values
        # Rounding angles of many turns to float32 would make another rotation of them.
        blurred = is_linear(rotation) and np.abs(base + values).max() * scale > MOST_ANGLE
        readable = (to_quaternion(numbers, rotation, scale) is not None for numbers in (base + values, before))
        if blurred or not all(readable):
            reasons.append("no_rotation")
            return values
        if most is None:
            return values
        result = limiting.rotation_values(base + values, before, rotation, scale, most, reasons) - base
        if not is_linear(rotation):
            return result
        # Angles repeat: prefer the side of the range where the command was.
        repeated = equivalent(result, values, rotation, scale)
        inside = [v for v in (result, repeated) if (v >= part.low).all() and (v <= part.high).all()]
        return inside[0] if inside else np.clip(before - base, part.low, part.high)

    def _gripper(self, values: np.ndarray, base: np.ndarray, before: Values, reasons: list[str]) -> np.ndarray:
        if before is None:
            return values
        part = self.part
        low, high = self._box(base, before)
        target = limiting.bounded(base + values, low, high, "limit", reasons)
        ends = (part.state_opened, part.state_closed) if part.base == "step" else (part.opened, part.closed)
        motion = limiting.gripper_motion(
            target - before,
            self.track.direction,
            abs((ends[0] or 0.0) - (ends[1] or 0.0)),
            self.limits.gripper_hysteresis,
            self.gripper_rate,
            reasons,
        )
        return before + motion - base


def _per_joint(limit: Any, joints: int, name: str) -> Values:
    """One value per joint of the action."""
    if limit is None:
        return None
    values = np.full(joints, limit) if np.ndim(limit) == 0 else np.asarray(limit, np.float64)
    if not joints or len(values) != joints:
        raise ValueError(f"The safety limit {name} has {len(values)} values, but the action has {joints} joints.")
    return values


def _widened(box: Any) -> Box:
    """A keep-out box, larger by what rounding to float32 could enter it."""
    low, high = np.asarray(box[0], np.float64), np.asarray(box[1], np.float64)
    margin = limiting.ROUNDING * max(1.0, float(np.abs(box).max()))
    return low - margin, high + margin

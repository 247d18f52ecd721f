"""The safety filter between a policy and a robot. numpy only: this runs on the robot's computer.

safety = SafetyFilter(embodiment, SafetyLimits(step_length=0.02, watchdog=0.5))
command = safety.apply(action, state, now=time.monotonic())     # None: there is nothing that may be sent
safety.stop("pressed")                                          # latches until safety.release()
"""

import logging
from collections import Counter, deque
from collections import Counter as Counts
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from visuomotor_client import limiting
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.robot import Part, control_rate, parts
from visuomotor_client.rotation import equivalent, is_linear, to_quaternion
from visuomotor_client.workspace import Box, nearest_free

__all__ = ["MODES", "Intervention", "SafetyFilter"]

logger = logging.getLogger(__name__)

MODES = ("clamp", "reject", "shadow")
UNUSABLE = (
    "shape",
    "not_finite",
    "state",
    "no_rotation",
    "no_place",
    "chunk_age",
    "watchdog",
)  # nothing of it can be kept
NO_LIMITS = SafetyLimits()
IDENTITY = {
    "quat_xyzw": (0, 0, 0, 1),
    "quat_wxyz": (1, 0, 0, 0),
    "rot6d": (1, 0, 0, 0, 1, 0),
    "matrix": (1, 0, 0, 0, 1, 0, 0, 0, 1),
}


@dataclass(frozen=True)
class Intervention:
    """One command that the filter did not let pass as it was: when, why, what came, what left (None: nothing)."""

    now: float
    reasons: tuple[str, ...]
    given: Any
    sent: Optional[np.ndarray]


class SafetyFilter:
    """Lets a command pass, changes it, or replaces it by a hold; says why, and counts.

    In this order: shape and finite numbers; the limits of each component in its own convention (see Part and
    SafetyLimits), the first command against the measured state; the gripper's rate and hysteresis; the chunk's age.
    Hold means: the last target for absolute actions, zero for differences and velocities. It is what is sent instead of
    a command that is unusable, when no observation or action comes for `limits.watchdog` seconds, and after `stop`,
    which latches until `release`.

    Args:
        embodiment: an Embodiment, or its JSON as servers and checkpoints carry it.
        mode: "clamp" keeps what the limits leave of a command, "reject" holds instead of any command beyond them,
            "shadow" changes nothing and only counts (an emergency stop holds all the same).

    A robot that stands outside its limits is never moved by the filter itself: differences may then only lead back, and
    absolute commands start from the nearest point inside. Where limits contradict each other, position wins over
    velocity, and velocity over acceleration. The result is float32, rounded towards the inside of the limits.
    """

    def __init__(self, embodiment: Any, limits: SafetyLimits = NO_LIMITS, *, mode: str = "clamp") -> None:
        if mode not in MODES:
            raise ValueError(f"Unknown safety mode {mode!r}; choose from {', '.join(MODES)}.")
        self.parts, self.limits, self.mode = parts(embodiment), limits, mode
        self.control_hz = control_rate(embodiment)
        self.action_dim = self.parts[-1].where.stop
        self.counts: Counts[str] = Counter()  # by reason
        self.interventions = 0  # commands
        self.log: deque[Intervention] = deque(maxlen=1000)
        self.stopped: Optional[str] = None
        joints = sum(part.size for part in self.parts if part.kind == "joint")
        self._velocity = _per_joint(limits.velocity, joints, "velocity", self.control_hz)
        self._acceleration = _per_joint(limits.acceleration, joints, "acceleration", self.control_hz**2)
        self._keep_out = [_widened(box) for box in limits.keep_out]
        self._require_possible()
        corners = [self._corners(part) for part in self.parts]
        self._low = _inward(np.concatenate([low for low, _ in corners]), np.inf)
        self._high = _inward(np.concatenate([high for _, high in corners]), -np.inf)
        self.reset()

    def reset(self) -> None:
        """A new episode: forget the last command. Counts stay, and so does a stop."""
        self._targets: list[Optional[np.ndarray]] = [None] * len(self.parts)
        self._motions = [np.zeros(part.size) for part in self.parts]
        self._directions = [np.zeros(part.size) for part in self.parts]
        self._state: Optional[np.ndarray] = None
        self._observed = self._acted = -np.inf

    def stop(self, reason: str = "emergency stop") -> None:
        """Hold from now on, whatever comes, until `release`."""
        self.stopped = reason
        logger.warning("The robot is stopped: %s.", reason)

    def release(self) -> None:
        """End a stop. What is sent next is compared with the measured state, as a first command is."""
        self.stopped = None
        self.reset()

    def overdue(self, now: float) -> bool:
        """Whether no observation, or no action, came for `limits.watchdog` seconds."""
        limit = self.limits.watchdog
        return limit is not None and any(now - last > limit for last in (self._observed, self._acted) if last > -np.inf)

    def apply(
        self,
        action: Any,
        state: Optional[np.ndarray] = None,
        *,
        now: float = 0.0,
        time: Optional[float] = None,
        start: Optional[np.ndarray] = None,
    ) -> Optional[np.ndarray]:
        """What may be sent in this control step: float32[a], or None where nothing is safe.

        state: measured now, float[s]; now: seconds on any clock; time: when the observation was taken that the action
        answers; start: the state then, for actions that are differences to it.
        """
        reasons: list[str] = []
        measured = self._measure(state, now, reasons)
        values = self._readable(action, reasons)
        self._acted = now
        kept = None if values is None else self._limited(values, measured, start, reasons)
        if time is not None and self.limits.chunk_age is not None and now - time > self.limits.chunk_age:
            reasons.append("chunk_age")
        if self.overdue(now):
            reasons.append("watchdog")
        if self.stopped is not None:
            reasons = ["stop"]
        if self.mode == "shadow" and self.stopped is None:
            sent = None if values is None else values.astype(np.float32)
        elif self.stopped is not None or any(r in UNUSABLE for r in reasons) or (reasons and self.mode == "reject"):
            sent = self._resting(measured, start)
        else:
            sent = None if kept is None else self._rounded(kept)
        self._commit(sent, measured, start)
        if reasons:
            self._intervened(now, reasons, action, sent)
            if self.mode == "shadow" and self.stopped is None:
                return action
        return sent

    def hold(
        self, state: Optional[np.ndarray] = None, *, now: float = 0.0, start: Optional[np.ndarray] = None
    ) -> Optional[np.ndarray]:
        """What is sent in a control step for which there is no action; an intervention only if it is overdue."""
        ignored: list[str] = []
        measured = self._measure(state, now, ignored)
        sent = self._resting(measured, start)
        self._commit(sent, measured, start)
        if self.stopped is not None or self.overdue(now):
            self._intervened(now, ["watchdog" if self.stopped is None else "stop"], None, sent)
        return sent

    # Reading ----------------------------------------------------------------------------------------------------

    def _measure(self, state: Optional[np.ndarray], now: float, reasons: list[str]) -> Optional[np.ndarray]:
        """The measured state; None where there is none, with a reason where it cannot be read."""
        if state is None:
            return None
        try:
            values = np.asarray(state, np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        least = max([part.state.stop for part in self.parts if part.state is not None], default=0)
        if values.ndim != 1 or len(values) < least or not np.isfinite(values).all():
            reasons.append("state")
            return None
        self._state, self._observed = values, now
        return values

    def _readable(self, action: Any, reasons: list[str]) -> Optional[np.ndarray]:
        try:
            values = np.asarray(action, np.float64)
        except (TypeError, ValueError):
            values = np.empty(0)
        if values.shape != (self.action_dim,):
            reasons.append("shape")
            return None
        if not (np.abs(values) <= np.finfo(np.float32).max).all():  # also false for NaN
            reasons.append("not_finite")
            return None
        return values

    def _base(self, part: Part, measured: Optional[np.ndarray], start: Optional[np.ndarray]) -> Optional[np.ndarray]:
        """What a part's action is added to; None where that is not known."""
        if part.base == "absolute":
            return np.zeros(part.size)
        origin = measured if part.base == "step" else start
        return None if origin is None or part.state is None else part.measured(origin)

    def _before(self, i: int, part: Part, measured: Optional[np.ndarray]) -> Optional[np.ndarray]:
        """Where the last command went: for differences per step, and for a first command, where the robot is."""
        if part.base != "step" and self._targets[i] is not None:
            return self._targets[i]
        before = None if measured is None else part.measured(measured)
        return before if before is None or part.base != "absolute" else np.clip(before, *self._corners(part))

    # Limiting ---------------------------------------------------------------------------------------------------

    def _limited(
        self,
        values: np.ndarray,
        measured: Optional[np.ndarray],
        start: Optional[np.ndarray],
        reasons: list[str],
    ) -> np.ndarray:
        kept = values.copy()
        order = sorted(range(len(self.parts)), key=lambda i: self.parts[i].kind == "gripper")  # grippers last
        for i in order:
            part = self.parts[i]
            base, before = self._base(part, measured, start), self._before(i, part, measured)
            given, known = values[part.where], len(reasons)
            if _by_number(part):
                given = limiting.bounded(given, part.low, part.high, "limit", reasons)
            limit = {"position": self._position, "rotation": self._rotation, "gripper": self._gripper}
            found = limit.get(part.kind, self._joint)(i, part, given, base, before, reasons)
            if len(reasons) > known:  # otherwise the numbers stay as they came, to the last bit
                kept[part.where] = np.clip(found, part.low, part.high) if _by_number(part) else found
        return kept

    def _joint(self, i: int, part: Part, values: np.ndarray, base: Any, before: Any, reasons: list[str]) -> np.ndarray:
        velocity, acceleration = self._of_joint(part, self._velocity), self._of_joint(part, self._acceleration)
        if base is None or before is None:
            self._need_state(velocity is not None or acceleration is not None, reasons)
            return values
        low, high = self._box(part, base, before)
        before = np.clip(before, low, high)
        motion = limiting.joint_motion(
            base + values - before, self._motions[i], (before - low, high - before), velocity, acceleration, reasons
        )
        return before + motion - base

    def _position(
        self, i: int, part: Part, values: np.ndarray, base: Any, before: Any, reasons: list[str]
    ) -> np.ndarray:
        length = self.limits.step_length
        keep_out = self._keep_out if self._is_end_effector(part) else []
        if base is None:
            unknown = part.base == "chunk_start" and length is not None
            self._need_state(unknown or bool(keep_out) or self.limits.workspace is not None, reasons)
            base = before = np.zeros(part.size)  # a difference that starts nobody knows where: its length is left
            return limiting.position_target(values, before, base - np.inf, base + np.inf, [], length, reasons)
        self._need_state(before is None and length is not None, reasons)
        low, high = self._box(part, base, before)
        if part.base != "step" and before is not None:
            before = nearest_free(before, low, high, keep_out)
        return limiting.position_target(base + values, before, low, high, keep_out, length, reasons) - base

    def _rotation(
        self, i: int, part: Part, values: np.ndarray, base: Any, before: Any, reasons: list[str]
    ) -> np.ndarray:
        rotation, scale, most = str(part.rotation), limiting.degrees(part.unit), self.limits.step_angle
        if part.base == "step":  # a turn of its own, from no turn at all
            base = np.zeros(part.size)
            before = np.array(IDENTITY.get(rotation, base), float)
        if base is None or before is None:
            self._need_state(most is not None, reasons)
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

    def _gripper(
        self, i: int, part: Part, values: np.ndarray, base: Any, before: Any, reasons: list[str]
    ) -> np.ndarray:
        rate, hysteresis = self.limits.gripper_rate, self.limits.gripper_hysteresis
        if base is None or before is None:
            self._need_state(rate is not None, reasons)
            return values
        ends = (part.state_opened, part.state_closed) if part.base == "step" else (part.opened, part.closed)
        travel = abs((ends[0] or 0.0) - (ends[1] or 0.0))
        per_step = None if rate is None else rate / self.control_hz
        motion = limiting.gripper_motion(
            base + values - before, self._directions[i], travel, hysteresis, per_step, reasons
        )  # fmt: skip
        return before + motion - base

    def _box(self, part: Part, base: np.ndarray, before: Optional[np.ndarray]) -> Box:
        """Where the target may be. Differences per step may stay as far outside as the robot already is."""
        low, high = self._corners(part) if part.base == "absolute" else (part.state_low, part.state_high)
        if part.base != "absolute" and self._is_end_effector(part) and self.limits.workspace is not None:
            low, high = np.maximum(low, self.limits.workspace[0]), np.minimum(high, self.limits.workspace[1])
        if part.base == "chunk_start":
            low, high = np.maximum(low, base + part.low), np.minimum(high, base + part.high)
        if part.base == "step" and before is not None:
            low, high = np.minimum(low, before), np.maximum(high, before)
        return low, np.maximum(low, high)

    def _corners(self, part: Part) -> Box:
        """The limits of a part's numbers, with the workspace where they are places."""
        if not _by_number(part):
            return np.full(part.size, -np.inf), np.full(part.size, np.inf)
        if self.limits.workspace is None or part.base != "absolute" or not self._is_end_effector(part):
            return part.low, part.high
        return np.maximum(part.low, self.limits.workspace[0]), np.minimum(part.high, self.limits.workspace[1])

    def _is_end_effector(self, part: Part) -> bool:
        return part.kind == "position" and part.size == 3

    def _of_joint(self, part: Part, limits: Optional[np.ndarray]) -> Optional[np.ndarray]:
        if limits is None or part.kind != "joint":
            return None
        joints = [p for p in self.parts if p.kind == "joint"]
        start = sum(p.size for p in joints[: joints.index(part)])
        return limits[start : start + part.size]

    def _need_state(self, needed: bool, reasons: list[str]) -> None:
        """A limit that is asked for and cannot be checked without the state leaves nothing of the command."""
        if needed:
            reasons.append("state")

    # Sending ----------------------------------------------------------------------------------------------------

    def _resting(self, measured: Optional[np.ndarray], start: Optional[np.ndarray]) -> Optional[np.ndarray]:
        """The command that leaves the robot where it is, braked where acceleration is limited; None if unknown."""
        measured = self._state if measured is None else measured
        values = np.zeros(self.action_dim)
        for i, part in enumerate(self.parts):
            if part.rests_at_zero:
                if part.kind == "rotation" and part.rotation in IDENTITY:
                    values[part.where] = IDENTITY[part.rotation]
                continue
            base, before = self._base(part, measured, start), self._before(i, part, measured)
            if base is None or before is None:
                return None
            values[part.where] = before - base
        return self._rounded(self._limited(values, measured, start, []))

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values.astype(np.float32), self._low, self._high)

    def _commit(self, sent: Optional[np.ndarray], measured: Optional[np.ndarray], start: Optional[np.ndarray]) -> None:
        """Remember where each part was sent, and how far that was."""
        if sent is None:
            return
        for i, part in enumerate(self.parts):
            base, before = self._base(part, measured, start), self._before(i, part, measured)
            if base is None:
                continue
            target = base + sent[part.where].astype(np.float64)
            motion = np.zeros(part.size) if before is None else target - before
            self._targets[i], self._motions[i] = target, motion
            moved = np.abs(motion) > limiting.ROUNDING
            self._directions[i] = np.where(moved, np.sign(motion), self._directions[i])

    def _intervened(self, now: float, reasons: list[str], given: Any, sent: Optional[np.ndarray]) -> None:
        reasons = list(dict.fromkeys(reasons))
        self.interventions += 1
        self.counts.update(reasons)
        self.log.append(Intervention(now, tuple(reasons), given, sent))
        logger.info("At %.3f s a command was changed (%s).", now, ", ".join(reasons))

    def _require_possible(self) -> None:
        """Refuse limits that no command could keep."""
        for part in self.parts:
            if part.base == "chunk_start" and part.kind == "rotation" and not _by_number(part):
                raise ValueError(
                    f"Action component {part.name!r} is a difference of {part.rotation!r} numbers, which is no "
                    "rotation; describe it as Euler angles or axis_angle."
                )
        moving = [part for part in self.parts if self._is_end_effector(part)]
        if (self.limits.workspace is not None or self.limits.keep_out) and not moving:
            raise ValueError(
                "A workspace or keep-out box needs an action component of kind 'position' with 3 dimensions."
            )
        for part in moving:
            low, high = self._corners(part)
            if part.base == "absolute" and (
                (low > high).any() or nearest_free(np.zeros(3), low, high, self._keep_out) is None
            ):
                raise ValueError(
                    f"The safety limits leave {part.name!r} no place; check the workspace and keep-out boxes."
                )


def _by_number(part: Part) -> bool:
    """Whether limits hold number by number: not for quaternions, rot6d and matrices."""
    return part.kind != "rotation" or is_linear(str(part.rotation))


def _per_joint(limit: Any, joints: int, name: str, rate: float) -> Optional[np.ndarray]:
    """One limit per joint, per control step (squared)."""
    if limit is None:
        return None
    values = np.full(joints, limit) if np.ndim(limit) == 0 else np.asarray(limit, np.float64)
    if not joints or len(values) != joints:
        raise ValueError(f"The safety limit {name} has {len(values)} values, but the action has {joints} joints.")
    return values / rate


def _inward(limits: np.ndarray, towards: float) -> np.ndarray:
    """float32 limits that do not lie beyond those in float64."""
    narrow = limits.astype(np.float32)
    beyond = narrow < limits if towards > 0 else narrow > limits
    return np.where(beyond, np.nextafter(narrow, np.float32(towards)), narrow).astype(np.float32)


def _widened(box: Any) -> Box:
    """A keep-out box, larger by what rounding to float32 could enter it."""
    low, high = np.asarray(box[0], np.float64), np.asarray(box[1], np.float64)
    margin = limiting.ROUNDING * max(1.0, float(np.abs(box).max()))
    return low - margin, high + margin

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

from visuomotor_client.component import limiters
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.robot import control_rate, parts

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
        self._limiters = limiters(self.parts, limits, self.control_hz)
        self._low = _inward(np.concatenate([limiter.low for limiter in self._limiters]), np.inf)
        self._high = _inward(np.concatenate([limiter.high for limiter in self._limiters]), -np.inf)
        self.reset()

    def reset(self) -> None:
        """A new episode: forget the last command. Counts stay, and so does a stop."""
        for limiter in self._limiters:
            limiter.reset()
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

    # Limiting and sending -----------------------------------------------------------------------------------------

    def _limited(
        self, values: np.ndarray, measured: Optional[np.ndarray], start: Optional[np.ndarray], reasons: list[str]
    ) -> np.ndarray:
        kept = values.copy()
        for limiter in sorted(self._limiters, key=lambda limiter: limiter.part.kind == "gripper"):  # grippers last
            where = limiter.part.where
            kept[where] = limiter.limited(values[where], measured, start, reasons)
        return kept

    def _resting(self, measured: Optional[np.ndarray], start: Optional[np.ndarray]) -> Optional[np.ndarray]:
        """The command that leaves the robot where it is, braked where acceleration is limited; None if unknown."""
        measured = self._state if measured is None else measured
        values = np.zeros(self.action_dim)
        for limiter in self._limiters:
            rest = limiter.resting(measured, start)
            if rest is None:
                return None
            values[limiter.part.where] = rest
        return self._rounded(self._limited(values, measured, start, []))

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values.astype(np.float32), self._low, self._high)

    def _commit(self, sent: Optional[np.ndarray], measured: Optional[np.ndarray], start: Optional[np.ndarray]) -> None:
        """Remember what was sent."""
        if sent is not None:
            for limiter in self._limiters:
                limiter.commit(sent[limiter.part.where].astype(np.float64), measured, start)

    def _intervened(self, now: float, reasons: list[str], given: Any, sent: Optional[np.ndarray]) -> None:
        reasons = list(dict.fromkeys(reasons))
        self.interventions += 1
        self.counts.update(reasons)
        self.log.append(Intervention(now, tuple(reasons), given, sent))
        logger.info("At %.3f s a command was changed (%s).", now, ", ".join(reasons))


def _inward(limits: np.ndarray, towards: float) -> np.ndarray:
    """float32 limits that do not lie beyond those in float64."""
    narrow = limits.astype(np.float32)
    beyond = narrow < limits if towards > 0 else narrow > limits
    return np.where(beyond, np.nextafter(narrow, np.float32(towards)), narrow).astype(np.float32)

"""Safety filter between a policy and a robot. numpy only: this runs on the robot's computer.

safety = SafetyFilter(embodiment, SafetyLimits(step_length=0.02, watchdog=0.5))
command = safety.apply(action, state, now=time.monotonic())     # None: there is nothing that may be sent
safety.stop("pressed")                                          # latches until safety.release()
"""

import logging
from collections import Counter, deque
from typing import Any, Optional

import numpy as np

from visuomotor_client.component import limiters
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.motion import Values
from visuomotor_client.requirements import missing_limits, require_possible, require_state
from visuomotor_client.robot import control_rate, parts
from visuomotor_client.rotation import to_quaternion
from visuomotor_client.values import Intervention, are_usable, inward, read_numbers
from visuomotor_client.watchdog import Watchdog

__all__ = ["MODES", "STATES", "Intervention", "SafetyFilter"]

logger = logging.getLogger(__name__)

MODES = ("clamp", "reject", "shadow")
STATES = ("required", "none")
# Reasons after which nothing of a command can be used.
UNUSABLE = frozenset(
    {
        "shape",
        "not_finite",
        "state",
        "state_late",
        "start",
        "no_rotation",
        "no_place",
        "clock",
        "chunk_age",
        "chunk_future",
        "watchdog",
    }
)
NO_LIMITS = SafetyLimits()
STATE_AGE = 1.5  # control steps


class SafetyFilter:
    """Passes a command, changes it, or replaces it by a hold; counts the reasons.

    In this order: clock and state; shape and finite numbers; the limits of each component in its own convention (see
    Part and SafetyLimits), the first command against the measured state; the gripper's rate and hysteresis; the
    chunk's age. A hold is the last target for absolute actions, zero for differences and velocities, reached with the
    limited acceleration. It is sent in place of a command that is unusable, while the state is missing, when no action
    comes for `limits.watchdog` seconds, and after `stop`, which latches until `release`.

    Whether states arrive is a promise of the robot's loop:

    * "required": a state that is missing, not finite or late holds at once, and stops the robot until `release` once
      none came for `limits.watchdog` seconds. Meanwhile positions are integrated from the last good state.
    * "none": states are not read. Limits that depend on a measured position are refused here.

    A robot that stands outside its limits stays there when it is stopped. Otherwise differences may only lead back, and
    absolute commands and holds start from the nearest point inside. Where limits contradict each other, position wins
    over velocity, and velocity over acceleration. The result is float32, rounded towards the inside of the limits.

    Args:
        embodiment: an Embodiment, or its JSON as servers and checkpoints carry it.
        limits: limits beside those that the embodiment declares.
        mode: "clamp" keeps what the limits leave of a command, "reject" holds instead of any command beyond them,
            "shadow" changes nothing and only counts (a stop holds all the same).
        state: "required" or "none".

    Raises:
        ValueError: unknown mode or state, limits that fit no component or that no command could keep, or limits that
            need a measured position where none is measured.
    """

    def __init__(
        self, embodiment: Any, limits: SafetyLimits = NO_LIMITS, *, mode: str = "clamp", state: str = "required"
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"Unknown safety mode {mode!r}; choose from {', '.join(MODES)}.")
        if state not in STATES:
            raise ValueError(f"Unknown promise of states {state!r}; choose from {', '.join(STATES)}.")
        self.parts, self.limits, self.mode = parts(embodiment), limits, mode
        self.control_hz = control_rate(embodiment)
        self.action_dim = self.parts[-1].where.stop
        self.counts: Counter[str] = Counter()  # by reason
        self.interventions = 0  # commands
        self.log: deque[Intervention] = deque(maxlen=1000)
        self.stopped: Optional[str] = None
        self._reads_state = state == "required"
        self._needs_state = self._reads_state and any(part.state is not None for part in self.parts)
        measured = [part for part in self.parts if part.state is not None]
        self._state_size = max((part.state.stop for part in measured if part.state is not None), default=0)
        self._rotating = [part for part in measured if not part.holds_any_numbers]
        self._limiters = limiters(self.parts, limits, self.control_hz)
        for limiter in self._limiters:
            require_possible(limiter)
            require_state(limiter, available=self._reads_state)
        self._low = inward(np.concatenate([limiter.low for limiter in self._limiters]), np.inf)
        self._high = inward(np.concatenate([limiter.high for limiter in self._limiters]), -np.inf)
        age = STATE_AGE / self.control_hz if limits.state_age is None else limits.state_age
        self._watchdog = Watchdog(limits.watchdog, age)
        self.reset()

    @property
    def has_motion_limits(self) -> bool:
        """Whether a command is limited by more than the declared range of its own numbers and of its position."""
        return self.limits != NO_LIMITS or any(limiter.velocity is not None for limiter in self._limiters)

    def missing(self) -> list[str]:
        """Return a phrase for each component that lacks limits, e.g. "joints: velocity, acceleration"."""
        named = [(limiter.part.name, missing_limits(limiter)) for limiter in self._limiters]
        return [f"{name}: {', '.join(names)}" for name, names in named if names]

    def log_missing(self) -> None:
        """Log which limits are missing; for the start of a loop."""
        missing = self.missing()
        if missing:
            logger.warning("The safety filter has no limit for %s.", "; ".join(missing))

    def reset(self) -> None:
        """Begin a new episode with the robot at rest: forget commands, states and times. A stop and counts stay."""
        for limiter in self._limiters:
            limiter.reset()
        self._start: Values = None
        self._watchdog.reset()

    def rebase(self) -> None:
        """Compare the next command with the measured state, as a first command, without forgetting the motion."""
        for limiter in self._limiters:
            limiter.track.rebase()
        self._watchdog.reset()

    def stop(self, reason: str = "emergency stop") -> None:
        """Hold from now on until `release`, whatever comes. May be called from any thread."""
        self.stopped = reason
        logger.warning("The robot is stopped: %s.", reason)

    def release(self) -> None:
        """End a stop. The next command is compared with the measured state, as a first command is."""
        self.stopped = None
        self.rebase()

    def overdue(self, now: float) -> bool:
        """Return whether no state, or no action, came for `limits.watchdog` seconds; yes on an unreadable clock."""
        return self._watchdog.overdue(now)

    def apply(
        self,
        action: Any,
        state: Optional[np.ndarray] = None,
        *,
        now: float = 0.0,
        time: Optional[float] = None,
        start: Optional[np.ndarray] = None,
        state_time: Optional[float] = None,
    ) -> Optional[np.ndarray]:
        """Return what may be sent in this control step: float32[a], or None where nothing is safe.

        Args:
            action: float[a].
            state: measured state float[s].
            now: present time in seconds, on any clock that runs forward.
            time: time of the observation that the action answers.
            start: state float[s] at that time, for actions that are differences to it.
            state_time: time at which `state` was measured; None: now.
        """
        reasons: list[str] = []
        self._observe(state, now, state_time, reasons)
        if time is not None and "clock" not in reasons:
            refusal = self._watchdog.refusal(time, self.limits.chunk_age)
            reasons += [] if refusal is None else [refusal]
        return self._step(action, self._chunk_start(start, reasons), reasons)

    def chunk(self, actions: np.ndarray, state: np.ndarray) -> list[Optional[np.ndarray]]:
        """Return what may be sent of a chunk float[T, a] that a robot at rest at `state` float[s] executes open loop.

        No state is measured between the actions: the robot is taken to do what it is sent.
        """
        self.reset()
        reasons: list[str] = []
        self._observe(state, 0.0, None, reasons)
        start = self._chunk_start(state, reasons)
        return [self._step(action, start, list(reasons)) for action in actions]

    def hold(
        self,
        state: Optional[np.ndarray] = None,
        *,
        now: float = 0.0,
        start: Optional[np.ndarray] = None,
        state_time: Optional[float] = None,
    ) -> Optional[np.ndarray]:
        """Return the command for a control step without an action: float32[a], or None where none is safe.

        It counts as an intervention only where more than an action is missing.
        """
        reasons: list[str] = []
        self._observe(state, now, state_time, reasons)
        start = self._chunk_start(start, [])
        sent = self._resting(start)
        self._commit(sent, start)
        if self.stopped is not None:
            self._intervene(["stop"], None, sent)
        elif "clock" in reasons or self.overdue(now):
            self._intervene(["clock" if "clock" in reasons else "watchdog"], None, sent)
        return sent

    # Reading --------------------------------------------------------------------------------------------------------

    def _observe(self, state: Any, now: Any, state_time: Any, reasons: list[str]) -> None:
        """Take over time and state; add what is wrong with them to `reasons`, and stop where the state is lost."""
        if not self._watchdog.tick(now):
            reasons.append("clock")
        if not self._reads_state:
            return
        values = self._readable_state(state)
        if values is None:
            reasons += ["state"] * (self._needs_state or state is not None)
        elif state_time is not None and not self._watchdog.is_current(state_time):
            reasons.append("state_late")
        else:
            self._watchdog.state_arrived()
            for limiter in self._limiters:
                limiter.track.observe(values)
            return
        if self._needs_state and self.mode != "shadow" and self.stopped is None and self._watchdog.state_lost():
            self.stop(f"no state for more than {self.limits.watchdog:g} s")

    def _readable_state(self, state: Any) -> Values:
        """`state` as float64[s]; None where it is too short, not finite, or holds zeros for a rotation."""
        values = read_numbers(state)
        if values is None or values.ndim != 1 or len(values) < self._state_size or not are_usable(values):
            return None
        for part in self._rotating:
            if to_quaternion(values[part.state], str(part.rotation)) is None:
                return None
        return values

    def _chunk_start(self, start: Any, reasons: list[str]) -> Values:
        """The state that differences to the chunk's start count from: the last one where none comes."""
        if start is not None:
            values = self._readable_state(start)
            if values is None:
                reasons.append("start")
            else:
                self._start = values
        elif any(part.base == "chunk_start" and part.state is not None for part in self.parts):
            reasons.append("start")
        return self._start

    def _readable(self, action: Any, reasons: list[str]) -> Values:
        """`action` as float64[a]; None, with a reason, where it is none."""
        values = read_numbers(action)
        if values is None or values.shape != (self.action_dim,):
            reasons.append("shape")
            return None
        if not are_usable(values):
            reasons.append("not_finite")
            return None
        return values

    # Limiting and sending -------------------------------------------------------------------------------------------

    def _step(self, action: Any, start: Values, reasons: list[str]) -> Optional[np.ndarray]:
        """One control step after time and state are known."""
        values = self._readable(action, reasons)
        self._watchdog.action_arrived()
        limited = None if values is None else self._limited(values, start, reasons)
        if self._watchdog.overdue(self._watchdog.now):
            reasons.append("watchdog")
        stopped = self.stopped is not None  # once: another thread may stop the robot meanwhile
        if stopped:
            reasons = ["stop"]
        if self.mode == "shadow" and not stopped:
            sent = None if values is None else values.astype(np.float32)
        elif stopped or UNUSABLE.intersection(reasons) or (reasons and self.mode == "reject"):
            sent = self._resting(start)
        else:
            sent = None if limited is None else self._rounded(limited)
        self._commit(sent, start, within=stopped or self.mode != "shadow" or not reasons)
        if reasons:
            self._intervene(reasons, action, sent)
            if self.mode == "shadow" and not stopped:
                return action
        return sent

    def _limited(self, values: np.ndarray, start: Values, reasons: list[str]) -> np.ndarray:
        result = values.copy()
        for limiter in sorted(self._limiters, key=lambda limiter: limiter.part.kind == "gripper"):  # grippers last
            where = limiter.part.where
            result[where] = limiter.limited(values[where], start, reasons)
        return result

    def _resting(self, start: Values) -> Optional[np.ndarray]:
        """The command that leaves the robot where it is, braked where acceleration is limited; None if unknown."""
        values = np.zeros(self.action_dim)
        for limiter in self._limiters:
            rest = limiter.resting(start, stopped=self.stopped is not None)
            if rest is None:
                return self._repeated(start)
            values[limiter.part.where] = rest
        return self._rounded(self._limited(values, start, []))

    def _repeated(self, start: Values) -> Optional[np.ndarray]:
        """The last targets again, though beyond the limits, where a velocity beside them has to end; else None.

        A robot that gets no command stays at its last target, but goes on with its last velocity.
        """
        if not any(limiter.is_under_way for limiter in self._limiters):
            return None
        values = np.zeros(self.action_dim)
        for limiter in self._limiters:
            target = limiter.repeated(start)
            if target is None:
                return None
            values[limiter.part.where] = target
        return values.astype(np.float32)

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values.astype(np.float32), self._low, self._high)

    def _commit(self, sent: Optional[np.ndarray], start: Values, *, within: bool = True) -> None:
        """Record what was sent."""
        for limiter in self._limiters:
            values = None if sent is None else sent[limiter.part.where].astype(np.float64)
            limiter.commit(values, start, within=within)

    def _intervene(self, reasons: list[str], given: Any, sent: Optional[np.ndarray]) -> None:
        """Count and log a command that did not pass unchanged."""
        reasons = list(dict.fromkeys(reasons))
        self.interventions += 1
        self.counts.update(reasons)
        self.log.append(Intervention(self._watchdog.now, tuple(reasons), given, sent))
        logger.info("At %.3f s a command was changed (%s).", self._watchdog.now, ", ".join(reasons))

"""Clock of a control loop: what came when, and what is too old. Standard library only."""

import math
from typing import Any, Optional

__all__ = ["Watchdog"]

TOLERANCE = 1e-6  # seconds by which a time stamp may lie ahead, for sums of decimal fractions


class Watchdog:
    """Times of the last state and the last action, on whatever clock the loop has.

    Args:
        limit: seconds without either after which the robot has to be held; None: no limit.
        state_age: seconds after its measurement at which a state is too old.
    """

    def __init__(self, limit: Optional[float], state_age: float) -> None:
        self.limit, self.state_age = limit, state_age
        self.reset()

    def reset(self) -> None:
        """Begin anew, perhaps on another clock."""
        self.now = -math.inf
        self._began = self._state = self._action = -math.inf

    def tick(self, now: Any) -> bool:
        """Take over the present time; False where it is no number, or earlier than one before."""
        seconds = _seconds(now)
        if not math.isfinite(seconds) or seconds < self.now:
            return False
        self.now = seconds
        if self._began == -math.inf:
            self._began = seconds
        return True

    def state_arrived(self) -> None:
        """Record a usable state at the present time."""
        self._state = self.now

    def action_arrived(self) -> None:
        """Record an action at the present time, usable or not."""
        self._action = self.now

    def is_current(self, measured_at: Any) -> bool:
        """Return whether a state with this time stamp may be used now."""
        return -TOLERANCE <= self.now - _seconds(measured_at) <= self.state_age

    def refusal(self, observed_at: Any, most: Optional[float]) -> Optional[str]:
        """Return why an action that answers an observation of this time is refused; None where it is not.

        `most` is the greatest age in seconds, None for any.
        """
        age = self.now - _seconds(observed_at)
        if not math.isfinite(age):
            return "clock"
        if age < -TOLERANCE:
            return "chunk_future"
        return "chunk_age" if most is not None and age > most else None

    def overdue(self, now: Any) -> bool:
        """Return whether no state, or no action, came for `limit` seconds. A clock that cannot be read says yes."""
        if self.limit is None:
            return False
        seconds = _seconds(now)
        if not seconds >= self.now:
            return True
        return any(seconds - last > self.limit for last in (self._state, self._action) if last > -math.inf)

    def state_lost(self) -> bool:
        """Return whether no state came for `limit` seconds, counted from the beginning where none ever came."""
        return self.limit is not None and self.now - max(self._state, self._began) > self.limit


def _seconds(value: Any) -> float:
    """`value` as seconds; NaN where it is no number."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan

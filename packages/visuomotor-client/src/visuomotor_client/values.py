"""Commands and states as numbers, from whatever arrives. numpy only."""

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from visuomotor_client.motion import Values

__all__ = ["Intervention", "are_usable", "inward", "read_numbers"]


@dataclass(frozen=True)
class Intervention:
    """A command that did not pass unchanged.

    `given` is what came, `sent` what left (None: nothing), `now` the loop's time in seconds.
    """

    now: float
    reasons: tuple[str, ...]
    given: Any
    sent: Optional[np.ndarray]


def read_numbers(value: Any) -> Values:
    """`value` as a float64 array; None where it cannot be read as one.

    A copy, because a loop may write each state into the same array, which would then equal the one before.
    Anything may come here, also objects whose conversion raises whatever it likes (integers beyond float64, tensors
    that require gradients), so every error means the same: these are no numbers, and the caller says so.
    """
    try:
        return np.array(value, np.float64)
    except Exception:
        return None


def are_usable(values: np.ndarray) -> bool:
    """Whether all numbers are finite, also in float32. False for NaN."""
    return bool((np.abs(values) <= np.finfo(np.float32).max).all())


def inward(limits: np.ndarray, towards: float) -> np.ndarray:
    """float32 limits that do not lie beyond those in float64."""
    narrow = limits.astype(np.float32)
    beyond = narrow < limits if towards > 0 else narrow > limits
    return np.where(beyond, np.nextafter(narrow, np.float32(towards)), narrow).astype(np.float32)

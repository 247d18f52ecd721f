"""What is left of one component's command within the limits. numpy only.

Everything is float64. `values` is the command in its own convention, `base` what it is added to, `before` where the
last command went (or where the robot is), so that base + values - before is the motion of this control step.
"""

import math
from collections.abc import Sequence
from typing import Optional

import numpy as np

from visuomotor_client.rotation import angle_between, equivalent, interpolate, is_linear, to_quaternion
from visuomotor_client.workspace import Box, free_share, nearest_free

__all__ = ["bounded", "braked", "degrees", "gripper_motion", "joint_motion", "position_target", "rotation_values"]

ROUNDING = 1e-6  # of a number, or of 1: what commands in float32 may be off without being an intervention


def bounded(values: np.ndarray, low: np.ndarray, high: np.ndarray, reason: str, reasons: list[str]) -> np.ndarray:
    """`values` within [low, high]; adds `reason` where that changed more than rounding."""
    if ((values >= low) & (values <= high)).all():
        return values
    kept = np.minimum(np.maximum(values, low), high)
    if (np.abs(kept - values) > ROUNDING * np.maximum(1.0, np.abs(values))).any():
        reasons.append(reason)
    return kept


def braked(room: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The largest motion per step after which one can still stop within `room`, slowing by `change` per step.

    m + (m - change) + (m - 2 change) + ... is at most `room`.
    """
    room = np.maximum(room, 0.0)
    with np.errstate(invalid="ignore"):
        steps = np.floor((np.sqrt(1 + 8 * room / change) - 1) / 2)
        motion = (room + change * steps * (steps + 1) / 2) / (steps + 1)
    return np.where(np.isfinite(room), motion, np.inf)


def joint_motion(
    motion: np.ndarray,
    last: np.ndarray,
    room: Sequence[np.ndarray],
    velocity: Optional[np.ndarray],
    acceleration: Optional[np.ndarray],
    reasons: list[str],
) -> np.ndarray:
    """The motion of this step. `last`: that of the step before; `room`: how far it may go down and up.

    Velocity is per step, acceleration per step squared. Position wins over velocity, velocity over acceleration.
    """
    down, up = room
    motion = bounded(motion, -down, up, "limit", reasons)
    if velocity is not None:
        motion = bounded(motion, -velocity, velocity, "velocity", reasons)
    if acceleration is not None:
        low = np.maximum(last - acceleration, -braked(down, acceleration))
        high = np.minimum(last + acceleration, braked(up, acceleration))
        motion = bounded(motion, np.minimum(low, high), high, "acceleration", reasons)
    if velocity is not None:
        motion = np.minimum(np.maximum(motion, -velocity), velocity)
    return np.minimum(np.maximum(motion, -down), up)


def position_target(
    target: np.ndarray,
    before: Optional[np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    keep_out: Sequence[Box],
    step_length: Optional[float],
    reasons: list[str],
) -> np.ndarray:
    """Where an end-effector may go from `before`: straight, within the box, not into a keep-out box, one step far."""
    target = bounded(target, low, high, "workspace", reasons)
    if before is None:
        free = nearest_free(target, low, high, keep_out)
        if free is None:
            reasons.append("no_place")
            return target
        return bounded(target, free, free, "keep_out", reasons)
    here = nearest_free(before, low, high, keep_out)
    if here is None or np.abs(here - before).max() > ROUNDING * max(1.0, float(np.abs(before).max())):
        # It stands in a keep-out box: it may leave it, and goes nowhere else.
        free = nearest_free(target, low, high, keep_out)
        share = 1.0 if free is not None and (free == target).all() else 0.0
        here = before
    else:
        share = free_share(here, target, keep_out)
    if share < 1:
        reasons.append("keep_out")
        target = here + share * (target - here)
    length = float(np.linalg.norm(target - here))
    if step_length is not None and length > step_length * (1 + ROUNDING):
        reasons.append("step_length")
        target = here + (target - here) * (step_length / length)
    return target


def rotation_values(
    target: np.ndarray, before: np.ndarray, rotation: str, scale: float, most: float, reasons: list[str]
) -> np.ndarray:
    """A rotation at most the geodesic angle `most` (rad) from `before`, in the target's own format."""
    here, there = (to_quaternion(values, rotation, scale) for values in (before, target))
    if here is None or there is None:
        raise ValueError(f"The numbers {target} are no rotation in the format {rotation!r}.")
    angle = angle_between(here, there)
    if angle <= most * (1 + ROUNDING):
        return target
    reasons.append("rotation")
    if not is_linear(rotation):
        return interpolate(here, there, most / angle, rotation)
    way = equivalent(target, before, rotation, scale) - before
    kept, refused = 0.0, 1.0
    for _ in range(50):  # the numbers in between are rotations in between, but the angle does not grow evenly
        share = (kept + refused) / 2
        between = to_quaternion(before + share * way, rotation, scale)
        assert between is not None
        if angle_between(here, between) <= most:
            kept = share
        else:
            refused = share
    return before + kept * way


def gripper_motion(
    motion: np.ndarray,
    direction: np.ndarray,
    travel: float,
    hysteresis: float,
    rate: Optional[float],
    reasons: list[str],
) -> np.ndarray:
    """The gripper's motion of this step. `direction`: the sign of its last one; `rate`: shares of travel per step."""
    small = (motion * direction < 0) & (np.abs(motion) < hysteresis * travel)
    if small.any():
        reasons.append("gripper_hysteresis")
        motion = np.where(small, 0.0, motion)
    if rate is not None:
        most = np.full_like(motion, rate * travel)
        motion = bounded(motion, -most, most, "gripper_rate", reasons)
    return motion


def degrees(unit: str) -> float:
    """Radians per unit of an angle."""
    return math.pi / 180 if unit.startswith("deg") else 1.0

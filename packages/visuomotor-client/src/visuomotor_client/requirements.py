"""Limits of an action component against what its description makes possible. numpy only."""

import numpy as np

from visuomotor_client.component import Limiter
from visuomotor_client.rotation import is_known
from visuomotor_client.workspace import nearest_free

__all__ = ["missing_limits", "require_possible", "require_state"]


def require_possible(limiter: Limiter) -> None:
    """Refuse limits that no command could keep.

    Raises:
        ValueError: names the component and the remedy.
    """
    part = limiter.part
    if part.kind == "rotation" and limiter.limits.step_angle and not is_known(str(part.rotation), part.size):
        raise ValueError(
            f"The angle of {part.name!r} cannot be limited: {part.size} numbers in the format {part.rotation!r} "
            "are no rotation that is known here. Leave step_angle out, or correct the embodiment."
        )
    if part.base == "chunk_start" and not limiter.by_number:
        raise ValueError(
            f"Action component {part.name!r} is a difference of {part.rotation!r} numbers, which is no rotation; "
            "describe it as Euler angles or axis_angle."
        )
    if part.rests_at_zero and limiter.by_number and ((limiter.low > 0) | (limiter.high < 0)).any():
        raise ValueError(
            f"Action component {part.name!r} cannot stand still: zero lies outside its limits "
            f"{limiter.low.tolist()} to {limiter.high.tolist()}. Correct low and high in the embodiment."
        )
    if part.base != "absolute" or not part.is_end_effector:
        return
    free = nearest_free(np.zeros(3), limiter.low, limiter.high, limiter.keep_out)
    if (limiter.low > limiter.high).any() or free is None:
        raise ValueError(f"The safety limits leave {part.name!r} no place; check the workspace and keep-out boxes.")


def require_state(limiter: Limiter, *, available: bool) -> None:
    """Refuse limits that depend on a position which is never measured.

    Args:
        available: states arrive at the filter.

    Raises:
        ValueError: names the component, the limits and the remedy.
    """
    if available and limiter.part.state is not None:
        return
    names = _limits_on_position(limiter)
    if not names:
        return
    reason = "no component of the state measures it" if available else "the filter is built with state='none'"
    raise ValueError(
        f"The limits {', '.join(names)} of action component {limiter.part.name!r} depend on its measured position, "
        f"but {reason}. Measure it in the state, or leave these limits out."
    )


def missing_limits(limiter: Limiter) -> list[str]:
    """Return the names of the limits that this kind of component can have and does not have."""
    part, limits = limiter.part, limiter.limits
    low, high = limiter.position_limits()
    bounded = bool(np.isfinite(low).all() and np.isfinite(high).all())
    by_kind = {
        "joint": {
            "position": bounded,
            "velocity": limiter.velocity is not None,
            "acceleration": limiter.acceleration is not None,
        },
        "position": {"position": bounded, "step_length": limits.step_length is not None},
        "rotation": {"step_angle": limits.step_angle is not None},
        "gripper": {"position": bounded, "gripper_rate": limiter.gripper_rate is not None},
    }
    own_numbers = {"low and high": bool(np.isfinite(part.low).all() and np.isfinite(part.high).all())}
    present = by_kind.get(part.kind, own_numbers)
    return [name for name, is_set in present.items() if not is_set]


def _limits_on_position(limiter: Limiter) -> list[str]:
    """Names of the limits that can be kept only where the position is known."""
    part, limits = limiter.part, limiter.limits
    names = {
        "velocity": limiter.velocity is not None,
        "acceleration": limiter.acceleration is not None,
        "step_length": limits.step_length is not None and part.kind == "position",
        "step_angle": limits.step_angle is not None and part.kind == "rotation",
        "gripper_rate": limiter.gripper_rate is not None and part.kind == "gripper",
    }
    if part.base == "step":
        # The difference itself is the motion. Only a gripper's travel has to come from the state's description.
        names = {"gripper_rate": names["gripper_rate"] and part.state is None}
    names["keep_out"] = bool(limiter.keep_out)
    if part.base != "absolute":
        names["workspace"] = limiter.workspace is not None
        names["low and high of the state"] = part.kind != "rotation" and bool(
            np.isfinite(part.state_low).any() or np.isfinite(part.state_high).any()
        )
    return [name for name, is_set in names.items() if is_set]

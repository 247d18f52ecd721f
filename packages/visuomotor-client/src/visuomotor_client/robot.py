"""What executors and safety filter need to know of a robot, read from its embodiment. numpy only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from visuomotor_client.rotation import is_known, is_linear

__all__ = ["Part", "as_numbers", "control_rate", "parts"]


@dataclass(frozen=True)
class Part:
    """One component of the action, with the component of the state that measures it (None where none does).

    `low`, `high` float64[n]: the limits that the robot accepts, infinite where it states none; `state_low`,
    `state_high` those of the measured component, in the same unit. `velocity` float64[n]: the highest speed, in the
    unit per second, None where none is stated. `base` names what an action is added to: nothing
    ("absolute"), the state at the chunk's start ("chunk_start"), or the present state ("step").
    """

    name: str
    kind: str
    base: str
    unit: str
    rotation: Optional[str]
    where: slice
    low: np.ndarray
    high: np.ndarray
    opened: Optional[float]
    closed: Optional[float]
    state: Optional[slice]
    state_low: np.ndarray
    state_high: np.ndarray
    state_opened: Optional[float]
    state_closed: Optional[float]
    velocity: Optional[np.ndarray] = None

    @property
    def size(self) -> int:
        return self.where.stop - self.where.start

    @property
    def rests_at_zero(self) -> bool:
        """Whether a command of zero leaves it where it is: differences per step, and velocities."""
        return self.base == "step" or self.kind == "velocity"

    @property
    def holds_any_numbers(self) -> bool:
        """Whether all numbers are a value of it: not of a quaternion, whose numbers may all be zero."""
        rotation = str(self.rotation)
        return self.kind != "rotation" or is_linear(rotation) or not is_known(rotation, self.size)

    @property
    def is_end_effector(self) -> bool:
        """Whether workspace and keep-out boxes apply to it."""
        return self.kind == "position" and self.size == 3

    def measured(self, state: np.ndarray) -> Optional[np.ndarray]:
        """float64[n]: where the state says this part is, in the action's unit; None where it does not say."""
        if self.state is None:
            return None
        return self._in_action_unit(np.asarray(state, np.float64)[self.state])

    def measured_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """(low, high) float64[n] of the measured position, in the action's unit; infinite where there are none."""
        ends = self._in_action_unit(self.state_low), self._in_action_unit(self.state_high)
        return np.minimum(*ends), np.maximum(*ends)

    def _in_action_unit(self, values: np.ndarray) -> np.ndarray:
        """A gripper's state has ends of its own; a difference per step is in the state's unit as it is."""
        if self.kind != "gripper" or self.base == "step" or self.state is None:
            return values
        travel = (self.state_opened or 0.0) - (self.state_closed or 0.0)
        share = (values - (self.state_closed or 0.0)) / travel
        return (self.closed or 0.0) + share * ((self.opened or 0.0) - (self.closed or 0.0))


def parts(embodiment: Any) -> tuple[Part, ...]:
    """The action's components in order. `embodiment`: an Embodiment, or its JSON as servers and checkpoints carry it.

    A component is measured by the state component of its own name, else by the one that stands at the same place among
    those of its kind, if the state has as many; size and unit (a gripper's unit is converted) must agree.

    Raises:
        ValueError: limits of a component that no command could keep.
    """
    described = _described(embodiment)
    starts, place = [], 0
    for component in described["state"]:
        starts.append(place)
        place += len(component["dims"])
    found: list[Part] = []
    place = 0
    for component in described["action"]:
        size = len(component["dims"])
        index = _measuring(component, described)
        state = None if index is None else described["state"][index]
        low, high = _range(component)
        state_low, state_high = _range(state or {"dims": component["dims"]})
        found.append(
            Part(
                name=component["name"],
                kind=component["kind"],
                base=component["reference"],
                unit=component["unit"],
                rotation=component.get("rotation"),
                where=slice(place, place + size),
                low=low,
                high=high,
                opened=component.get("opened"),
                closed=component.get("closed"),
                state=None if index is None else slice(starts[index], starts[index] + size),
                state_low=state_low,
                state_high=state_high,
                state_opened=(state or {}).get("opened"),
                state_closed=(state or {}).get("closed"),
                velocity=_velocity(component),
            )
        )
        place += size
    return tuple(found)


def control_rate(embodiment: Any) -> float:
    """Control steps per second. ValueError where that is no finite number above 0."""
    value = _described(embodiment)["control_hz"]
    rate = as_numbers(value)
    if rate.shape != () or not 0 < rate < np.inf:
        raise ValueError(f"The embodiment's control_hz is {value!r}; give a finite number above 0.")
    return float(rate)


def _described(embodiment: Any) -> Mapping[str, Any]:
    return embodiment if isinstance(embodiment, Mapping) else embodiment.to_json()


def _range(component: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) float64[n] of a component, infinite where it states none."""
    low, high = _limit(component, "low", -np.inf), _limit(component, "high", np.inf)
    largest = float(np.finfo(np.float32).max)  # commands are sent in float32
    if not ((low <= high) & (low <= largest) & (high >= -largest)).all():
        raise ValueError(
            f"Component {component['name']!r} has low {low.tolist()} and high {high.tolist()}, and no number lies "
            "between them. Correct the embodiment."
        )
    return low, high


def _velocity(component: Mapping[str, Any]) -> Optional[np.ndarray]:
    """Highest speed float64[n]; None where none is stated."""
    if component.get("velocity") is None:
        return None
    speed = _limit(component, "velocity", np.inf)
    if not ((speed > 0) & (speed < np.inf)).all():
        raise ValueError(f"Component {component['name']!r} has velocity {speed.tolist()}; give finite numbers above 0.")
    return speed


def _limit(component: Mapping[str, Any], name: str, otherwise: float) -> np.ndarray:
    """One limit per dimension, float64[n]. NaN would let everything pass, so it is refused like text."""
    value, size = component.get(name), len(component["dims"])
    if value is None:
        return np.full(size, otherwise)
    limit = as_numbers(value)
    if limit.shape != (size,) or np.isnan(limit).any():
        raise ValueError(
            f"Component {component['name']!r} has {str(value)[:80]} as {name}; give one number for each of its "
            f"{size} dimensions."
        )
    return limit


def as_numbers(value: Any) -> np.ndarray:
    """Return a limit as float64; NaN where it holds anything but numbers."""
    if isinstance(value, (str, bytes)):
        return np.array(np.nan)
    try:
        return np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array(np.nan)


def _measuring(component: Mapping[str, Any], described: Mapping[str, Any]) -> Optional[int]:
    """The index of the state component that measures an action component."""
    if component["kind"] in ("velocity", "other"):
        return None
    states: list[dict[str, Any]] = list(described["state"])
    same = [i for i, s in enumerate(states) if s["kind"] == component["kind"]]
    peers = [c["name"] for c in described["action"] if c["kind"] == component["kind"]]
    named = [i for i in same if states[i]["name"] == component["name"]]
    if not named and len(same) != len(peers):
        return None
    index = named[0] if named else same[peers.index(component["name"])]
    state = states[index]
    fits = len(state["dims"]) == len(component["dims"]) and state.get("rotation") == component.get("rotation")
    if component["kind"] == "gripper" and component["reference"] != "step":
        return index if fits and state["opened"] != state["closed"] else None
    return index if fits and state["unit"] == component["unit"] else None

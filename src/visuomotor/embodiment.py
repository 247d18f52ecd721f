"""Embodiment: a robot described once, in data, so that action conventions cannot be confused.

Every data set, checkpoint, environment and server carries one. Two embodiments are compared with
`Embodiment.require_compatible`, whose error names both sides.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visuomotor.codec import decode, encode

Reference = Literal["absolute", "chunk_start", "step"]
Normalization = Literal["quantile", "mean_std", "limits", "none"]
Kind = Literal["position", "rotation", "gripper", "joint", "velocity", "other"]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """One camera: its name in the data, its role for the model (`scene`, `wrist`, ...), its size."""

    name: str
    role: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Component:
    """A named slice of a state or action vector.

    `reference` says what an action number means: `absolute` target, difference to the state at the
    `chunk_start` (DM0), or difference per `step` (CogACT, Meta-World). `low` and `high` are the
    limits that the robot accepts, one per dimension, in `unit`. `rotation` is the rotation format
    with its Euler order where it has one (`axis_angle`, `euler_xyz`, `quat_xyzw`, `rot6d`).
    `opened` and `closed` are the gripper's values. `velocity` is the highest speed of each
    dimension, in `unit` per second, which the safety filter keeps for joints.
    """

    name: str
    dims: tuple[str, ...]
    kind: Kind
    unit: str
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    frame: str = "base"
    rotation: str | None = None
    reference: Reference = "absolute"
    normalization: Normalization = "quantile"
    opened: float | None = None
    closed: float | None = None
    velocity: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for side, limit in (("low", self.low), ("high", self.high), ("velocity", self.velocity)):
            if limit is not None and len(limit) != len(self.dims):
                raise ValueError(
                    f"Component {self.name!r} has {len(self.dims)} dimensions but {len(limit)} values in {side}."
                )
        if self.velocity is not None and not all(0 < speed < math.inf for speed in self.velocity):
            raise ValueError(f"Component {self.name!r} has velocity {self.velocity}; give finite numbers above 0.")
        if self.kind == "gripper" and (self.opened is None or self.closed is None):
            raise ValueError(f"Gripper component {self.name!r} must say its opened and its closed value.")
        if self.kind == "rotation" and self.rotation is None:
            raise ValueError(f"Rotation component {self.name!r} must name its format, e.g. rotation='axis_angle'.")


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """A robot: name, control rate in Hz, cameras in the model's order, state and action components."""

    name: str
    control_hz: float
    cameras: tuple[Camera, ...]
    state: tuple[Component, ...]
    action: tuple[Component, ...]

    @property
    def state_dim(self) -> int:
        return sum(len(c.dims) for c in self.state)

    @property
    def action_dim(self) -> int:
        return sum(len(c.dims) for c in self.action)

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(c.role for c in self.cameras)

    def action_slices(self) -> dict[str, slice]:
        """Component name -> its slice of the action vector."""
        return _slices(self.action)

    def state_slices(self) -> dict[str, slice]:
        """Component name -> its slice of the state vector."""
        return _slices(self.state)

    def differences(self, other: "Embodiment") -> list[str]:
        """Sentences on what differs in state, action, rate or cameras (image size is not compared)."""
        found = []
        if self.control_hz != other.control_hz:
            found.append(f"control rate {self.control_hz} Hz against {other.control_hz} Hz")
        if self.roles != other.roles:
            found.append(f"camera roles {list(self.roles)} against {list(other.roles)}")
        for what, mine, theirs in (("state", self.state, other.state), ("action", self.action, other.action)):
            if [c.name for c in mine] != [c.name for c in theirs]:
                found.append(f"{what} components {[c.name for c in mine]} against {[c.name for c in theirs]}")
                continue
            for a, b in zip(mine, theirs, strict=True):
                for field in dataclasses.fields(Component):
                    x, y = getattr(a, field.name), getattr(b, field.name)
                    if x != y:
                        found.append(f"{what} component {a.name!r}: {field.name} {x!r} against {y!r}")
        return found

    def require_compatible(self, other: "Embodiment", *, this: str, that: str) -> None:
        """Raise ValueError naming both sides (`this` owns self) when they do not mean the same numbers."""
        found = self.differences(other)
        if found:
            raise ValueError(
                f"{this} is for embodiment {self.name!r} but {that} is for {other.name!r}: {'; '.join(found)}. "
                f"Use data and checkpoint of one embodiment, or map one onto the other explicitly "
                f"(edit embodiment.json beside the data if its description is wrong)."
            )

    def to_json(self) -> dict[str, Any]:
        """The description that goes over a wire, and that the robots' client reads."""
        return encode(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Embodiment":
        try:
            return decode(cls, json.loads(path.read_text()))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} is missing. A data set or checkpoint must say which robot it is for; "
                f"draft one with: visuomotor data embodiment {path.parent}"
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} is not an embodiment description: {error}") from error


def _slices(components: tuple[Component, ...]) -> dict[str, slice]:
    slices, start = {}, 0
    for c in components:
        slices[c.name] = slice(start, start + len(c.dims))
        start += len(c.dims)
    return slices

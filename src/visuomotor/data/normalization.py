"""Robot units <-> the model's units: action reference and normalisation, each beside its inverse.

Every normalisation is affine per dimension, y = (x - offset) / scale, so that one pair of vectors serves both ways:
quantile   y = 2 (x - q01) / (q99 - q01 + 1e-6) - 1      mean_std   y = (x - mean) / (std + 1e-6)
limits     [low, high] -> [-1, 1]                        none       y = x
DexVLA's, for whole vectors whatever their components say (ProcessorConfig):
min_max    [min - 0.0001, max + 0.0001] -> [-1, 1]       z_score    y = (x - mean) / max(std, 0.01)
Nothing is clipped, unless the configuration says so (CogACT).
"""

import logging
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from visuomotor.data.statistics import VectorStatistics
from visuomotor.embodiment import Component, Embodiment

__all__ = [
    "MARGIN", "Affine", "Method", "ReferenceChange", "Units", "gripper_values", "normalizer", "reference_change",
    "step_dimensions",
]  # fmt: skip

log = logging.getLogger(__name__)
EPSILON = 1e-6
MARGIN, LEAST_DEVIATION = 1e-4, 1e-2  # of min_max and z_score, which keep them from stretching a constant
Method = Literal["embodiment", "min_max", "z_score"]
NEAR_CONSTANT = 1e-4  # of the dimension's unit, or of its magnitude where that is above one
PERIODS = {"rad": 2 * math.pi, "radian": 2 * math.pi, "deg": 360.0, "degree": 360.0}


@dataclass(frozen=True)
class Affine:
    """y = (x - offset) / scale over the last axis; x has D dimensions, y is padded with zeros to `width`.

    `clip`: y is kept within [-1, 1], both ways.
    """

    offset: np.ndarray
    scale: np.ndarray
    width: int
    constant: tuple[str, ...] = ()
    clip: bool = False

    def apply(self, x: np.ndarray) -> np.ndarray:
        """float[..., D] in robot units -> float32[..., width]."""
        y = np.zeros((*x.shape[:-1], self.width), dtype=np.float32)
        y[..., : len(self.offset)] = (x - self.offset) / self.scale
        return y.clip(-1, 1) if self.clip else y

    def invert(self, y: np.ndarray) -> np.ndarray:
        """float[..., width] -> float32[..., D] in robot units."""
        kept = np.asarray(y, dtype=np.float64)[..., : len(self.offset)]
        kept = kept.clip(-1, 1) if self.clip else kept
        return (kept * self.scale + self.offset).astype(np.float32)


def normalizer(
    components: tuple[Component, ...],
    statistics: VectorStatistics,
    width: int,
    what: Literal["state", "action"],
    near_constant: float = NEAR_CONSTANT,
    method: Method = "embodiment",
) -> Affine:
    """The Affine of a state or action vector; each component says which normalisation it takes, unless `method` does.

    A range (or std) of almost nothing would blow noise up. Such a dimension is centred on its median and reported;
    its scale is 1 unit for states (a robot off that value must not read as thousands) and the threshold itself for
    actions (what the model adds to a constant must stay invisible). `near_constant` is that threshold, 0 stretches
    everything, as published models do.
    """
    dims = [(c, i, name) for c in components for i, name in enumerate(c.dims)]
    if len(dims) > width:
        raise ValueError(
            f"The {what} has {len(dims)} dimensions but the model takes {width}; "
            f"set the processor's {what}_width (and the model's) to at least {len(dims)}."
        )
    if len(statistics.mean) != len(dims):
        raise ValueError(
            f"The {what} statistics have {len(statistics.mean)} dimensions but the embodiment describes {len(dims)}; "
            f"recompute the statistics or correct embodiment.json."
        )
    if method == "min_max":
        low, high = np.array(statistics.min) - MARGIN, np.array(statistics.max) + MARGIN
        return Affine((high + low) / 2, (high - low) / 2, width)
    if method == "z_score":
        return Affine(np.array(statistics.mean), np.maximum(np.array(statistics.std), LEAST_DEVIATION), width)
    offset, scale, constant = np.zeros(len(dims)), np.ones(len(dims)), []
    for d, (component, i, name) in enumerate(dims):
        offset[d], scale[d], spread = _one(component, i, statistics, d, near_constant)
        threshold = near_constant * max(1.0, abs(statistics.q50[d]))
        if spread is not None and spread < threshold:
            offset[d], scale[d] = statistics.q50[d], 1.0 if what == "state" else threshold
            constant.append(f"{component.name}.{name}")
    if constant:
        log.warning(
            "%s dimensions %s are nearly constant in the data (range below %g); they are centred, not stretched.",
            what, constant, near_constant,
        )  # fmt: skip
    return Affine(offset, scale, width, tuple(constant))


def _one(
    component: Component, i: int, s: VectorStatistics, d: int, near_constant: float
) -> tuple[float, float, float | None]:
    """(offset, scale, spread of the data or None where a small spread is harmless) of one dimension."""
    if component.normalization == "none":
        return 0.0, 1.0, None
    if component.normalization == "limits":
        if component.low is None or component.high is None:
            raise ValueError(
                f"Component {component.name!r} asks for normalization 'limits' but has no low and high; add them to "
                f"embodiment.json or choose 'quantile'."
            )
        half = (component.high[i] - component.low[i]) / 2
        if half <= 0:
            raise ValueError(
                f"Component {component.name!r} dimension {component.dims[i]!r} has limits [{component.low[i]}, "
                f"{component.high[i]}]; low must be below high."
            )
        return component.low[i] + half, half, None
    if component.normalization == "mean_std":
        return s.mean[d], s.std[d] + EPSILON, s.std[d]
    low, high = s.q01[d], s.q99[d]
    if high - low < near_constant * max(1.0, abs(s.q50[d])):
        low, high = s.min[d], s.max[d]  # e.g. a gripper that closes in fewer than 1 % of the frames
    half = (high - low + EPSILON) / 2
    return low + half, half, high - low


@dataclass(frozen=True)
class ReferenceChange:
    """Absolute action targets <-> differences to the state at the start of the chunk (DM0).

    `action[i]` pairs with `state[i]`; `period[i]` is the full period of an angle, 0 where there is none; `low` and
    `high` are the accepted limits, used to bring an angle back into its range (NaN where unknown).
    """

    action: np.ndarray
    state: np.ndarray
    period: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def apply(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """actions [..., a], state at chunk start broadcastable to [..., s] -> actions [..., a]."""
        out = np.array(actions, copy=True)
        difference = out[..., self.action] - state[..., self.state]
        wrap = np.where((self.period > 0) & (np.abs(difference) > self.period / 2), self.period, 0.0)
        out[..., self.action] = difference - np.sign(difference) * wrap
        return out

    def invert(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The absolute targets; angles return to [low, high] where the embodiment states them, else to half a turn."""
        out = np.array(actions, copy=True)
        target = out[..., self.action] + state[..., self.state]
        low = np.where(np.isnan(self.low), -self.period / 2, self.low)
        high = np.where(np.isnan(self.high), self.period / 2, self.high)
        turns = np.where(self.period > 0, (target < low).astype(float) - (target > high).astype(float), 0.0)
        moved = target + turns * self.period
        out[..., self.action] = np.where((moved >= low) & (moved <= high), moved, target)
        return out


def reference_change(embodiment: Embodiment, state_of: dict[str, str], wrap: bool = True) -> ReferenceChange | None:
    """The change from `absolute` to `chunk_start`, or None when no component is absolute.

    Grippers stay absolute (the published non-delta mask). `state_of` maps an action component to its state component;
    the same name is the default. `wrap` takes angles the short way round.
    """
    actions, states, periods, lows, highs = [], [], [], [], []
    action_slices, state_slices = embodiment.action_slices(), embodiment.state_slices()
    for component in embodiment.action:
        if component.reference != "absolute" or component.kind in ("gripper", "velocity"):
            continue
        if component.rotation in ("quat_xyzw", "quat_wxyz", "rot6d", "matrix"):
            raise ValueError(
                f"Action component {component.name!r} is a rotation as {component.rotation!r}; differences of its "
                f"numbers mean nothing. Store it as Euler angles or axis_angle, or use action_reference='embodiment'."
            )
        name = state_of.get(component.name, component.name)
        n = len(component.dims)
        found = state_slices.get(name)
        if found is None or found.stop - found.start != n:
            raise ValueError(
                f"action_reference='chunk_start' needs the state component of action {component.name!r} ({n} "
                f"dimensions), but state {name!r} is {'absent' if found is None else 'of another width'}; the state "
                f"has {list(state_slices)}. Name it in state_of={{{component.name!r}: ...}}."
            )
        actions += range(action_slices[component.name].start, action_slices[component.name].stop)
        states += range(found.start, found.stop)
        angular = wrap and component.kind in ("rotation", "joint")
        periods += [PERIODS.get(component.unit, 0.0) if angular else 0.0] * n
        lows += component.low or [math.nan] * n
        highs += component.high or [math.nan] * n
    if not actions:
        return None
    return ReferenceChange(np.array(actions), np.array(states), np.array(periods), np.array(lows), np.array(highs))


@dataclass(frozen=True)
class Units:
    """Robot units <-> model units for one embodiment: action reference first, then normalisation, then padding.

    still      action dimensions that are zero past an episode's end; there all others repeat the last action
    grippers   (dimension, closed, opened) of commands that become the nearer of the two values for the robot
    """

    state: Affine
    action: Affine
    reference: ReferenceChange | None
    still: tuple[int, ...] = ()
    grippers: tuple[tuple[int, float, float], ...] = ()

    def model_actions(self, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """Robot actions [..., T, a] and the state [..., s] at the chunk's start -> float32[..., T, A]."""
        if self.reference is not None:
            actions = self.reference.apply(actions, state[..., None, :])
        return self.action.apply(actions)

    def robot_actions(self, normalised: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The inverse: float[..., T, A] and robot-unit state [..., s] -> float32[..., T, a]."""
        actions = self.action.invert(normalised)
        if self.reference is not None:
            actions = self.reference.invert(actions, state[..., None, :]).astype(np.float32)
        for dim, closed, opened in self.grippers:
            nearer = np.abs(actions[..., dim] - closed) < np.abs(actions[..., dim] - opened)
            actions[..., dim] = np.where(nearer, closed, opened)
        return actions


def step_dimensions(embodiment: Embodiment) -> tuple[int, ...]:
    """Action dimensions that are differences per step, grippers excepted."""
    slices = embodiment.action_slices()
    moving = (c.name for c in embodiment.action if c.reference == "step" and c.kind != "gripper")
    return tuple(dim for name in moving for dim in range(slices[name].start, slices[name].stop))


def gripper_values(embodiment: Embodiment) -> tuple[tuple[int, float, float], ...]:
    """(dimension, closed value, opened value) of every gripper command."""
    slices = embodiment.action_slices()
    grippers = [(c, slices[c.name]) for c in embodiment.action if c.kind == "gripper"]
    return tuple(
        (dim, float(c.closed or 0), float(c.opened or 0)) for c, s in grippers for dim in range(s.start, s.stop)
    )

"""Whether the numbers of a data set mean what its embodiment says: scale, gripper polarity, absolute or step actions.

Each check compares recorded numbers with the description and returns findings; none changes anything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from visuomotor.data.episodes import EpisodeSource
from visuomotor.embodiment import Component, Reference

__all__ = [
    "Finding", "Gripper", "check_gripper", "check_reference", "check_scale", "component_columns", "motion_evidence",
    "switches",
]  # fmt: skip

Severity = Literal["error", "warning", "note"]
FACTORS = {
    "rad": ((180 / np.pi, "degrees"),),
    "deg": ((np.pi / 180, "radians"),),
    "m": ((1000.0, "millimetres"), (100.0, "centimetres")),
    "mm": ((0.001, "metres"),),
    "cm": ((0.01, "metres"), (10.0, "millimetres")),
}
PLAUSIBLE = {"rad": 4 * np.pi, "m": 5.0}  # larger numbers are hardly radians or metres of an arm
OUTSIDE = 0.01  # share of values beyond the limits that is put down to noise
LAGS = (1, 2, 3, 5)  # frames that the arm may need to follow


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong (`error`), suspicious (`warning`) or good to know (`note`), where, and what to do."""

    severity: Severity
    what: str
    where: str
    remedy: str


def component_columns(dataset: EpisodeSource, column: str) -> Iterator[tuple[Component, np.ndarray]]:
    """Each component of `observation.state` or `action` with its values float64[n, d]."""
    robot, start = dataset.require_embodiment(), 0
    values = np.asarray(dataset.columns[column], np.float64)
    for component in robot.action if column == "action" else robot.state:
        yield component, values[:, start : start + len(component.dims)]
        start += len(component.dims)


def check_scale(dataset: EpisodeSource, column: str) -> list[Finding]:
    """Values beyond a component's limits, or of a size that its unit makes implausible."""
    found = []
    for component, values in component_columns(dataset, column):
        values = values[np.isfinite(values).all(1)]
        where = f"{column}, component {component.name!r}"
        if not len(values):
            continue
        low, high = _limits(component)
        outside = _outside(values, low, high)
        large = np.abs(values).max() > PLAUSIBLE.get(component.unit, np.inf) and component.reference == "absolute"
        if outside.max() > OUTSIDE or large:
            dim = int(np.argmax(outside if outside.max() > OUTSIDE else np.abs(values).max(0)))
            found.append(
                Finding(
                    severity="error" if outside.max() > 0.05 or large else "warning",
                    what=_beyond(component, values, dim, outside[dim]) + _other_unit(component, values, low, high),
                    where=where,
                    remedy="Convert the numbers, or correct unit and limits of this component in embodiment.json.",
                )
            )
        elif shrunk := _shrunk(component, values, low, high):
            found.append(
                Finding(
                    severity="warning",
                    what=shrunk,
                    where=where,
                    remedy="Ignore this if the robot moves that little; else correct the unit in embodiment.json.",
                )
            )
    return found


def _limits(component: Component) -> tuple[np.ndarray, np.ndarray]:
    width = len(component.dims)
    low = np.full(width, -np.inf) if component.low is None else np.array(component.low)
    high = np.full(width, np.inf) if component.high is None else np.array(component.high)
    return low, high


def _outside(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Share of values per dimension beyond the limits by more than 5 % of their range."""
    slack = np.where(np.isfinite(high - low), 0.05 * (high - low), 0.0)
    return ((values < low - slack) | (values > high + slack)).mean(0)


def _beyond(component: Component, values: np.ndarray, dim: int, share: float) -> str:
    text = f"{component.dims[dim]} goes from {values[:, dim].min():.4g} to {values[:, dim].max():.4g}"
    if share <= OUTSIDE:
        return f"{text}, which is much for {component.unit}"
    low, high = _limits(component)
    return f"{text}, {share:.0%} of it beyond the limits {low[dim]:.4g} to {high[dim]:.4g} {component.unit}"


def _other_unit(component: Component, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    for factor, unit in FACTORS.get(component.unit, ()):
        plausible = np.abs(values / factor).max() <= PLAUSIBLE.get(component.unit, np.inf)
        if factor > 1 and plausible and _outside(values / factor, low, high).max() <= OUTSIDE:
            return f"; it would fit if these were {unit} (divide by {factor:.5g})"
    return ""


def _shrunk(component: Component, values: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """A sentence when the values fill so little of their limits that another unit explains them better."""
    if not np.isfinite(high - low).all() or component.kind == "gripper":
        return ""
    used = np.ptp(values, axis=0).max() / (high - low).max()
    for factor, unit in FACTORS.get(component.unit, ()):
        fits = _outside(values / factor, low, high).max() <= OUTSIDE and used / factor > 0.1
        if factor < 1 and 0 < used < 0.03 and fits:
            return f"the values fill only {used:.1%} of the limits; it would fit better if they were {unit}"
    return ""


@dataclass(frozen=True, kw_only=True)
class Gripper:
    """How closed a gripper is, float[n] with 0 = opened and 1 = closed by the embodiment's own values."""

    component: Component
    opened: float
    closed: float
    closedness: np.ndarray

    @classmethod
    def all_of(cls, dataset: EpisodeSource, column: str) -> list["Gripper"]:
        found = []
        for component, values in component_columns(dataset, column):
            if component.kind == "gripper" and component.opened is not None and component.closed is not None:
                opened, closed = component.opened, component.closed
                closedness = (values.mean(1) - opened) / (closed - opened)
                found.append(cls(component=component, opened=opened, closed=closed, closedness=closedness))
        return found


def switches(closedness: np.ndarray, episodes: list[slice]) -> np.ndarray:
    """First change of each episode that has one: +1 closes, -1 opens."""
    first = []
    for rows in episodes:
        closed = closedness[rows] > 0.5
        changes = np.flatnonzero(closed[1:] != closed[:-1])
        if len(changes):
            first.append(1 if closed[changes[0] + 1] else -1)
    return np.array(first, int)


def check_gripper(dataset: EpisodeSource) -> list[Finding]:
    """Grippers whose numbers do not span opened to closed, move against each other, or open first."""
    episodes = [dataset.episode_slice(e) for e in range(dataset.num_episodes)]
    found, states = [], Gripper.all_of(dataset, "observation.state")
    for gripper in Gripper.all_of(dataset, "action"):
        name, where = gripper.component.name, f"action, component {gripper.component.name!r}"
        swap = f"Swap opened and closed of {name!r} in embodiment.json, or flip the recorded numbers."
        span = gripper.closedness[np.isfinite(gripper.closedness)]
        if len(span) and np.ptp(span) > 1e-6 and (span.max() < 0.7 or span.min() > 0.3):
            opened, closed = gripper.opened, gripper.closed
            reach = np.array([span.min(), span.max()]) * (closed - opened) + opened
            found.append(
                Finding(
                    severity="error",
                    what=f"the commands go from {reach.min():.4g} to {reach.max():.4g}, never near both opened "
                    f"({opened:g}) and closed ({closed:g})",
                    where=where,
                    remedy=f"Correct opened and closed of {name!r} in embodiment.json to the numbers the robot uses.",
                )
            )
            continue
        against = [s for s in states if _follows(gripper.closedness, s.closedness, episodes) < -0.3]
        first = switches(gripper.closedness, episodes)
        if against and len(states) == 1:
            found.append(
                Finding(
                    severity="error",
                    what="when the command says close, the measured gripper opens",
                    where=f"{where} against observation.state, component {states[0].component.name!r}",
                    remedy=f"One of the two is described the wrong way round. {swap}",
                )
            )
        elif len(first) >= 3 and (first < 0).mean() >= 0.8:
            found.append(
                Finding(
                    severity="warning",
                    what=f"in {(first < 0).sum()} of {len(first)} episodes the gripper opens first; a robot usually "
                    f"comes open and closes to grasp",
                    where=where,
                    remedy=f"Look at an episode (visuomotor data view). If the gripper starts open there: {swap}",
                )
            )
    return found


def _follows(command: np.ndarray, measured: np.ndarray, episodes: list[slice]) -> float:
    """The strongest correlation of the command with the measured value some frames later; 0 when one is constant."""
    return _strongest([_correlation(*_lagged(command, measured, episodes, lag)) for lag in LAGS])


def _lagged(a: np.ndarray, b: np.ndarray, episodes: list[slice], lag: int) -> tuple[np.ndarray, np.ndarray]:
    """a[t] and b[t + lag] of all frames t whose later frame lies in the same episode."""
    pairs = [(a[rows][:-lag], b[rows][lag:]) for rows in episodes if rows.stop - rows.start > lag]
    if not pairs:
        return a[:0], b[:0]
    return np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    good = np.isfinite(a) & np.isfinite(b)
    a, b = a[good], b[good]
    if len(a) < 3 or a.std() < 1e-9 or b.std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _strongest(values: list[float]) -> float:
    return max(values, key=abs)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How one action dimension relates to the state.

    `absolute` and `step`: its correlation with the next state and with the change of the state; `distance`: the median
    distance to the next state, as a share of the state's range.
    """

    absolute: float
    step: float
    distance: float

    @property
    def looks(self) -> Reference | None:
        """`absolute` or `step` where the numbers are clear, else None."""
        if self.absolute > 0.9 and self.distance < 0.3 and self.absolute > abs(self.step):
            return "absolute"
        if abs(self.step) > 0.5 and abs(self.step) > self.absolute:
            return "step"
        return None


def motion_evidence(action: np.ndarray, state: np.ndarray, episodes: list[slice]) -> Motion | None:
    """Motion of one dimension (action float[n], state float[n] of the same quantity), None when one does not move."""
    now, after = _lagged(action, state, episodes, 1)
    good = np.isfinite(now) & np.isfinite(after)
    spread = np.ptp(after[good]) if good.any() else 0.0
    if spread < 1e-9 or now[good].std() < 1e-9:
        return None
    changes = []
    for lag in LAGS:
        before, later = _lagged(state, state, episodes, lag)
        changes.append(_correlation(_lagged(action, state, episodes, lag)[0], later - before))
    return Motion(
        absolute=_correlation(now, after),
        step=_strongest(changes),
        distance=float(np.median(np.abs(now - after)[good]) / spread),
    )


def check_reference(dataset: EpisodeSource) -> list[Finding]:
    """Components whose actions look absolute but are described as steps, or the other way round, or mirrored."""
    episodes = [dataset.episode_slice(e) for e in range(dataset.num_episodes)]
    states = list(component_columns(dataset, "observation.state"))
    found = []
    for component, actions in component_columns(dataset, "action"):
        state = counterpart(component, states)
        if state is None or component.kind in ("gripper", "velocity") or component.reference == "chunk_start":
            continue
        motions = [motion_evidence(actions[:, d], state[:, d], episodes) for d in range(actions.shape[1])]
        looks = [m.looks for m in motions if m is not None and m.looks is not None]
        where = f"action, component {component.name!r}"
        if looks and all(look != component.reference for look in looks):
            reading = {"absolute": "follow the state itself", "step": "follow the change of the state"}[looks[0]]
            found.append(
                Finding(
                    severity="error",
                    what=f"the actions {reading}, so they look like reference {looks[0]!r}, but the embodiment says "
                    f"{component.reference!r}",
                    where=where,
                    remedy=f"Set reference to {looks[0]!r} for {component.name!r} in embodiment.json, or convert the "
                    f"actions.",
                )
            )
            continue
        mirrored = [
            dim
            for dim, motion in zip(component.dims, motions, strict=True)
            if component.reference == "step" and motion is not None and motion.looks == "step" and motion.step < 0
        ]
        if mirrored:
            found.append(
                Finding(
                    severity="error",
                    what=f"{', '.join(mirrored)}: the state moves against the action",
                    where=where,
                    remedy="The axis is mirrored: flip the sign of the actions, or describe another frame for them.",
                )
            )
    return found


def counterpart(component: Component, states: list[tuple[Component, np.ndarray]]) -> np.ndarray | None:
    """The state's values of the same quantity: of the same name, else the only one of the same kind and width."""
    same = [v for c, v in states if c.name == component.name and len(c.dims) == len(component.dims)]
    alike = [v for c, v in states if c.kind == component.kind and len(c.dims) == len(component.dims)]
    if same:
        return same[0]
    return alike[0] if len(alike) == 1 else None

"""Exact statistics of state and action over all frames of one embodiment's data sets.

Quantiles are taken over the values themselves, never averaged over episodes or data sets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visuomotor.data.episodes import EpisodeSource

__all__ = ["Statistics", "VectorStatistics", "compute_statistics", "vector_statistics"]

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
ActionTransform = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class VectorStatistics:
    """One value per dimension, in the unit of the data; `count` is the number of frames (or chunk steps)."""

    min: tuple[float, ...]
    max: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    q01: tuple[float, ...]
    q10: tuple[float, ...]
    q50: tuple[float, ...]
    q90: tuple[float, ...]
    q99: tuple[float, ...]
    count: int


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of one embodiment. `action` describes the actions in the reference that the model learns."""

    state: VectorStatistics
    action: VectorStatistics


def vector_statistics(columns: Sequence[np.ndarray]) -> VectorStatistics:
    """Statistics of D dimensions, given as D arrays of equal length (one dimension is held at a time in float64)."""
    values: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *QUANTILES)}
    for column in columns:
        x = np.asarray(column, dtype=np.float64)
        values["min"].append(float(x.min()))
        values["max"].append(float(x.max()))
        values["mean"].append(float(x.mean()))
        values["std"].append(float(x.std()))
        for name, value in zip(QUANTILES, np.quantile(x, list(QUANTILES.values())), strict=True):
            values[name].append(float(value))
    count = len(columns[0]) if columns else 0
    return VectorStatistics(count=count, **{k: tuple(v) for k, v in values.items()})


def _frame_windows(dataset: EpisodeSource, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """(first row, row) of every chunk step inside its episode: int64[n] each, n = sum over frames of valid steps."""
    starts, rows = [], []
    offsets = np.arange(horizon)
    for episode in range(dataset.num_episodes):
        frames = dataset.episode_slice(episode)
        first = np.arange(frames.start, frames.stop)[:, None]
        step = first + offsets
        inside = step < frames.stop
        starts.append(np.broadcast_to(first, step.shape)[inside])
        rows.append(step[inside])
    return np.concatenate(starts), np.concatenate(rows)


def compute_statistics(
    datasets: Any, *, horizon: int = 1, transform: ActionTransform | None = None, skip_bad: bool = False
) -> Statistics:
    """Statistics pooled over `datasets` (one Dataset or a list of the same embodiment).

    Args:
        horizon: steps per chunk; only matters together with `transform`.
        transform: (actions [n, a], states at the start of their chunk [n, s]) -> actions in the reference that
            the model learns (see `normalization.ReferenceChange`). Without it every action counts once.
        skip_bad: leave NaN and infinity out, instead of raising.

    Raises:
        ValueError: a NaN or infinity, naming data set, column, dimension and row.
    """
    pool = list(datasets) if isinstance(datasets, list | tuple) else [datasets]
    if not pool:
        raise ValueError("Statistics need at least one data set with actions; none was given.")
    states, actions = [], []
    for dataset in pool:
        columns = []
        for name, components in (
            ("observation.state", dataset.require_embodiment().state),
            ("action", dataset.require_embodiment().action),
        ):
            values = _matrix(dataset.columns[name])
            if not skip_bad:
                require_finite(dataset, name, values, [f"{c.name}.{d}" for c in components for d in c.dims])
            columns.append(values)
        state, action = columns
        if transform is not None:
            start, row = _frame_windows(dataset, horizon)
            action = transform(action[row], state[start])
        states.append(state)
        actions.append(action)
    return Statistics(state=vector_statistics(_columns(states)), action=vector_statistics(_columns(actions)))


def require_finite(dataset: EpisodeSource, column: str, values: np.ndarray, names: Sequence[str]) -> None:
    """ValueError naming dimension, row and episode of the first NaN or infinity in values float[F, d]."""
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):
        return
    row, dim = (int(i) for i in bad[0])
    name = names[dim] if dim < len(names) else str(dim)
    raise ValueError(
        f"{column} dimension {dim} ({name!r}) is {values[row, dim]} in row {row} of {describe(dataset)} ({len(bad)} "
        f"such values in all). Run `visuomotor data doctor`, and repair or remove those episodes, or train with "
        f"--bad-samples quarantine."
    )


def describe(dataset: object) -> str:
    """How error messages name a data set."""
    return f"data set {getattr(dataset, 'root', type(dataset).__name__)!s}"


def is_scenes(dataset: EpisodeSource) -> bool:
    """Whether the data set holds unrelated rendered scenes: boxes, but no demonstrations and no sentences."""
    return dataset.num_episodes > 0 and dataset.info(0).get("kind") == "scenes"


def _matrix(values: np.ndarray) -> np.ndarray:
    return values[:, None] if values.ndim == 1 else values


def _columns(parts: list[np.ndarray]) -> list[np.ndarray]:
    """One array per dimension, over all parts, without NaN and infinity."""
    columns = [np.concatenate([p[:, d] for p in parts]) for d in range(parts[0].shape[1])]
    return [c[np.isfinite(c)] for c in columns]

"""Where an end-effector may go: a box, and boxes in it that it must keep out of. numpy only."""

from collections.abc import Sequence
from typing import Optional

import numpy as np

__all__ = ["Box", "free_share", "nearest_free"]

Box = tuple[np.ndarray, np.ndarray]  # low and high corner, float64[3]


def nearest_free(point: np.ndarray, low: np.ndarray, high: np.ndarray, keep_out: Sequence[Box]) -> Optional[np.ndarray]:
    """The point nearest to `point` in the box [low, high] and not inside a keep-out box; None where there is none.

    Each coordinate of the answer is that of the clipped point or that of a face, so that trying all of them is exact.
    """
    point = np.clip(point, low, high)
    if not any(_inside(point, box) for box in keep_out):
        return point
    axes = []
    for i in range(len(point)):
        faces = [corner[i] for box in keep_out for corner in box if low[i] <= corner[i] <= high[i]]
        axes.append([point[i], *faces])
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(point))
    free = np.ones(len(grid), bool)
    for box in keep_out:
        free &= ~_inside(grid, box)
    if not free.any():
        return None
    grid = grid[free]
    return grid[np.linalg.norm(grid - point, axis=1).argmin()]


def free_share(start: np.ndarray, end: np.ndarray, keep_out: Sequence[Box]) -> float:
    """How much of the straight way from `start` to `end`, 0 to 1, lies before the first keep-out box."""
    way, share = end - start, 1.0
    moving = way != 0
    for low, high in keep_out:
        if (~moving & ((start <= low) | (start >= high))).any():
            continue
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            times = np.stack([(low - start) / way, (high - start) / way])[:, moving]
        enter, leave = times.min(axis=0).max(initial=-np.inf), times.max(axis=0).min(initial=np.inf)
        if enter < leave and leave > 0 and enter < share:
            share = max(float(enter), 0.0)
    return share


def _inside(points: np.ndarray, box: Box) -> np.ndarray:
    return np.asarray(((points > box[0]) & (points < box[1])).all(axis=-1))

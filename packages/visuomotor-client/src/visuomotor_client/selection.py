"""Choosing one of N sampled chunks. numpy only."""

from typing import Optional

import numpy as np

METRICS = ("l2", "l1", "cosine")


def medoid(samples: np.ndarray, *, metric: str = "l2", neighbours: Optional[int] = None) -> int:
    """The index of the sample of [N, ...] that is nearest to the others on average (minimum Bayes risk).

    Distances are between flattened samples. `neighbours` counts only that many nearest others (a density estimate,
    which keeps to one mode where samples have several); None counts all. Unlike a mean, the choice is itself a sample.

    Raises:
        ValueError: no sample, an unknown metric, or fewer than one neighbour.
    """
    if len(samples) < 1 or metric not in METRICS or (neighbours is not None and neighbours < 1):
        raise ValueError(
            f"A medoid needs at least 1 sample, a metric of {', '.join(METRICS)} and at least 1 neighbour; given "
            f"{len(samples)} samples, {metric!r} and neighbours={neighbours}."
        )
    flat = np.asarray(samples, np.float64).reshape(len(samples), -1)
    if metric == "cosine":
        unit = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
        distances = 1 - unit @ unit.T
    else:
        difference = flat[:, None] - flat[None]
        distances = np.linalg.norm(difference, ord=2 if metric == "l2" else 1, axis=2)
    if neighbours is not None:  # the first of a row is the sample itself
        distances = np.sort(distances, axis=1)[:, : neighbours + 1]
    return int(distances.mean(axis=1).argmin())

"""The statistics that LeRobot stores. Quantiles here are exact over all frames, unlike lerobot's own averages."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
IMAGE_FRAMES = 10  # frames of an episode that enter the image statistics
IMAGE_SIDE = 150  # pixels a side, at most, that enter them


def numeric_stats(values: np.ndarray) -> dict[str, Any]:
    """Statistics of numbers [n] or [n, d] over n, each a list of d."""
    table = values.reshape(len(values), -1).astype(np.float64)
    stats = {
        "min": table.min(0),
        "max": table.max(0),
        "mean": table.mean(0),
        "std": table.std(0),
        **dict(zip(QUANTILES, np.quantile(table, list(QUANTILES.values()), axis=0), strict=True)),
    }
    return {key: value.tolist() for key, value in stats.items()} | {"count": [len(values)]}


def sample_frames(length: int) -> np.ndarray:
    """Which frames of an episode stand for its images."""
    return np.unique(np.linspace(0, length - 1, min(length, IMAGE_FRAMES)).round().astype(np.int64))


@dataclass
class ImageHistogram:
    """Pixel values counted per channel, so that every statistic of the sampled frames is exact and can be added."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))
    frames: int = 0

    def add(self, frames: np.ndarray) -> None:
        """Count uint8[n, h, w, 3]."""
        step = max(1, -(-max(frames.shape[1:3]) // IMAGE_SIDE))
        for channel in range(3):
            self.counts[channel] += np.bincount(frames[:, ::step, ::step, channel].ravel(), minlength=256)
        self.frames += len(frames)

    def merge(self, other: "ImageHistogram") -> None:
        self.counts += other.counts
        self.frames += other.frames

    def stats(self) -> dict[str, Any]:
        """Statistics with pixels in [0, 1], shaped [channel][1][1] as LeRobot has them."""
        levels = np.arange(256) / 255
        share = self.counts / self.counts.sum(1, keepdims=True)
        cumulative = share.cumsum(1)
        mean = share @ levels
        stats = {
            "min": levels[(self.counts > 0).argmax(1)],
            "max": levels[255 - (self.counts[:, ::-1] > 0).argmax(1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(share @ levels**2 - mean**2, 0)),
            **{key: levels[(cumulative >= q - 1e-12).argmax(1)] for key, q in QUANTILES.items()},
        }
        return {key: value.reshape(3, 1, 1).tolist() for key, value in stats.items()} | {"count": [self.frames]}

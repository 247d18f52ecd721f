"""Dual-scale loss weights: how near a step is to a change of phase, and how soon it is in its chunk.

DAM-VLA (arXiv 2603.00926). Trajectory weights w^t belong to the frames of a whole trajectory, because their kernels
reach beyond any chunk; chunk weights w^a belong to the steps of a chunk. Dimensions: F frames, T horizon, S signals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float

from visuomotor.spelling import require_choices

__all__ = [
    "WEIGHTS", "Signal", "WeightName", "WeightingConfig", "chunk_weight", "dual_scale", "phases_of", "settled",
    "trajectory_weight",
]  # fmt: skip

Signal = Literal["gripper", "contact", "speed", "proximity"]
WeightName = Literal["trajectory", "chunk", "move", "mani", "emphasis"]
WEIGHTS: tuple[str, ...] = get_args(WeightName)


@dataclass(frozen=True, kw_only=True)
class WeightingConfig:
    """How weights and router labels are made of a trajectory. The defaults are the paper's, or near its words.

    signal          what says that a robot manipulates: "gripper" (its command, published), "contact" (annotation),
                    "speed" (the end-effector is slow) or "proximity" (in the first camera's picture it is near a thing
                    that the instruction or the sub-task names)
    covers          "changes" of the signal (published), or the whole "phases" in which it is on: closed, in contact,
                    slow, near
    sigma           standard deviations (leading, trailing) of the kernel before and after a change, in frames
    sigma_seconds   the same in seconds, in place of `sigma`, for data of several rates
    kernel          "peak": 1 at a change; "density": that of a normal distribution, which jumps there
    norm            of the sum over all changes: "max_or_one" divides by the larger of its maximum and 1, "max" by its
                    maximum, "clip" cuts at 1, "min_max" stretches to 0-1
    debounce        runs of the signal that are shorter, in frames, count as what was before; 1: none
    change_frame    the "first" frame of the new value, or the "last" of the old one
    gamma           decay of the chunk weight: gamma^j for step j, from 0
    threshold       a frame is labelled manipulation where its trajectory weight is above this
    label           the label is that of the frame "now", or of any frame of the "chunk"
    slow            "speed": below this share of the trajectory's 95th percentile
    near            "proximity": at most so far from a thing's box, in 0-1000 of the picture
    """

    signal: Signal = "gripper"
    covers: Literal["changes", "phases"] = "changes"
    sigma: tuple[float, float] = (6.0, 2.0)
    sigma_seconds: tuple[float, float] | None = None
    kernel: Literal["peak", "density"] = "peak"
    norm: Literal["max_or_one", "max", "clip", "min_max"] = "max_or_one"
    debounce: int = 3
    change_frame: Literal["first", "last"] = "first"
    gamma: float = 0.8
    threshold: float = 0.5
    label: Literal["now", "chunk"] = "now"
    slow: float = 0.5
    near: int = 20

    def __post_init__(self) -> None:
        require_choices(self)
        for name in ("sigma", "sigma_seconds"):
            values = getattr(self, name)
            if values is not None and (len(values) != 2 or min(values) <= 0):
                raise ValueError(f"weighting.{name} is {values}; give two values above 0, (leading, trailing).")
        if self.kernel == "density" and self.norm in ("max_or_one", "clip"):
            raise ValueError(
                f"weighting.kernel 'density' peaks below 1, so norm {self.norm!r} would leave no frame above the "
                f"threshold; choose norm 'max' or 'min_max'."
            )
        if not 0 < self.gamma <= 1 or not 0 <= self.threshold < 1:
            raise ValueError(
                f"weighting.gamma is {self.gamma} and threshold {self.threshold}; they lie in (0, 1] and [0, 1)."
            )
        if self.debounce < 1 or not 0 < self.slow < 1 or self.near < 0:
            raise ValueError(
                f"weighting has debounce {self.debounce} (at least 1), slow {self.slow} (between 0 and 1) and near "
                f"{self.near} (at least 0)."
            )

    def sigma_frames(self, fps: float) -> tuple[float, float]:
        """(leading, trailing) in frames of data at `fps`."""
        if self.sigma_seconds is None:
            return self.sigma
        leading, trailing = self.sigma_seconds
        return leading * fps, trailing * fps


def settled(signal: Bool[np.ndarray, "F"], shortest: int) -> Bool[np.ndarray, "F"]:
    """The signal without runs of fewer than `shortest` frames, which take the value before them.

    The first and the last run are kept: the trajectory's ends cut them, so nobody knows how long they were.
    """
    if not len(signal):
        return signal
    starts = np.flatnonzero(np.diff(signal, prepend=~signal[:1]))
    lengths = np.diff(starts, append=len(signal))
    kept = lengths >= shortest
    kept[[0, -1]] = True
    return np.repeat(signal[starts[kept]], np.diff(starts[kept], append=len(signal)))


def phases_of(signals: Bool[np.ndarray, "F S"], config: WeightingConfig) -> list[tuple[int, int]]:
    """(first, last) frame of everything that a kernel stands at, each once, in order: changes, or whole phases."""
    found: set[tuple[int, int]] = set()
    for signal in signals.T:
        calm = settled(signal, config.debounce)
        if config.covers == "changes":
            changes = np.flatnonzero(calm[1:] != calm[:-1]) + (config.change_frame == "first")
            found |= {(int(u), int(u)) for u in changes}
        else:
            edges = np.diff(calm.astype(np.int8), prepend=0, append=0)
            ends = np.flatnonzero(edges < 0) - 1
            found |= {(int(a), int(b)) for a, b in zip(np.flatnonzero(edges > 0), ends, strict=True)}
    return sorted(found)


def trajectory_weight(
    phases: Sequence[tuple[int, int]], frames: int, config: WeightingConfig, fps: float = 0.0
) -> Float[np.ndarray, "F"]:
    """w^t in 0-1, float64: the normalised sum of a kernel for each phase; 0 everywhere without any.

    Before a phase the kernel falls with the leading sigma, behind it with the trailing one, within it is at its peak; a
    change is a phase of one frame. `fps` is needed for sigmas in seconds.
    """
    leading, trailing = config.sigma_frames(fps)
    total, frame = np.zeros(frames), np.arange(frames)
    for first, last in phases:
        sigma = np.where(frame <= last, leading, trailing)
        distance = np.maximum(0, np.maximum(first - frame, frame - last))
        kernel = np.exp(-(distance**2) / (2 * sigma**2))
        total += kernel / (sigma * np.sqrt(2 * np.pi)) if config.kernel == "density" else kernel
    if not phases or not frames:
        return total
    if config.norm == "clip":
        return total.clip(max=1)
    if config.norm == "min_max":
        spread = total.max() - total.min()
        return (total - total.min()) / spread if spread > 0 else np.ones(frames)
    most = total.max()
    return total / (most if config.norm == "max" else max(1.0, most))


def chunk_weight(horizon: int, gamma: float) -> Float[np.ndarray, "T"]:
    """w^a float32: gamma^j, 1 for the current step."""
    return (gamma ** np.arange(horizon)).astype(np.float32)


def dual_scale(trajectory: Any, chunk: Any) -> tuple[Any, Any]:
    """(w^move, w^mani) = ((1 - w^t) w^a, w^t w^a) of two arrays or two tensors, elementwise.

    They add up to w^a within a unit in the last place.
    """
    manipulation = trajectory * chunk
    return chunk - manipulation, manipulation

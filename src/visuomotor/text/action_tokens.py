"""Discrete action tokens: each normalised action number becomes one of 255 bins, time-major."""

import numpy as np

__all__ = ["BINS", "decode_bins", "encode_bins"]

BINS = 255


def encode_bins(actions: np.ndarray) -> np.ndarray:
    """Normalised float[..., d] -> int64 bins 0-254 of the same shape; values outside [-1, 1] are clipped."""
    return np.rint((np.clip(actions, -1.0, 1.0) + 1.0) * ((BINS - 1) / 2)).astype(np.int64)


def decode_bins(bins: np.ndarray) -> np.ndarray:
    """Bins -> float32 in [-1, 1]. The round trip errs by at most 1/254 inside the range."""
    return (np.asarray(bins) / ((BINS - 1) / 2) - 1.0).astype(np.float32)

"""Time stamps of an episode against its frame numbers: a stamp is `frame_index / fps`, to within half a frame."""

import numpy as np

TOLERANCE = 0.5  # of a frame
UNITS = {1e3: "milliseconds", 1e6: "microseconds", 1e9: "nanoseconds"}


def stamp_deviation(stamps: np.ndarray, numbers: np.ndarray, fps: float) -> np.ndarray:
    """Frames by which stamps (seconds) are ahead of frame numbers, float64[n]; NaN where a stamp is not finite.

    Not a sum of steps: a drift of a thousandth per step counts in full at the end of the episode.
    """
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(stamps), stamps * fps - numbers, np.nan)


def is_nominal(stamps: np.ndarray, numbers: np.ndarray, fps: float) -> bool:
    """True when every stamp lies within half a frame of its frame number."""
    return bool((np.abs(stamp_deviation(stamps, numbers, fps)) <= TOLERANCE).all())


def describe_stamps(stamps: np.ndarray, numbers: np.ndarray, fps: float) -> str:
    """Sentence about the stamps of one episode that are not `frame_index / fps`; empty when they are."""
    deviation = stamp_deviation(stamps, numbers, fps)
    missing = np.flatnonzero(np.isnan(deviation))
    if len(missing):
        return f"its timestamps are not finite in {len(missing)} rows, first in frame {missing[0]}"
    if is_nominal(stamps, numbers, fps):
        return ""
    # The most telling description first: a unit explains a drift, a jump explains a late end.
    speed = _speed(stamps, numbers, fps)
    unit = next((name for factor, name in UNITS.items() if 0.8 < speed / factor < 1.25), None)
    if unit:
        return f"its timestamps look like {unit}: that of frame {len(stamps) - 1} is {stamps[-1]:.6g}"
    backward = np.flatnonzero(np.diff(stamps) < 0) + 1
    if len(backward):
        row = int(backward[0])
        return f"its timestamps run backwards at frame {row}, from {stamps[row - 1]:.4g} to {stamps[row]:.4g} s"
    if abs(deviation[0]) > max(TOLERANCE, float(np.ptp(deviation))):
        return f"its timestamps begin at {stamps[0]:.4g} s, {deviation[0]:+.1f} frames from frame_index / fps"
    worst = int(np.abs(deviation).argmax())
    return (
        f"its timestamps drift from frame_index / fps, {deviation[worst]:+.1f} frames at frame {worst} of "
        f"{len(stamps)} ({speed:.6g} times as fast)"
    )


def _speed(stamps: np.ndarray, numbers: np.ndarray, fps: float) -> float:
    """Time that passes by the stamps in a second of frame numbers."""
    frames = numbers[-1] - numbers[0]
    return float((stamps[-1] - stamps[0]) * fps / frames) if frames > 0 else 1.0

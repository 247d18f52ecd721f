"""Frames of a video by the time stamps of its rows: the nearest frame of the row's own episode."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from visuomotor.data.lerobot.clock import VideoClock
from visuomotor.data.lerobot.spans import VideoRows
from visuomotor.data.lerobot.stamps import TOLERANCE

SLACK = 0.01  # of a frame: rounding of float32 stamps and of ticks
TIE = 1e-3  # of a frame: of two frames that are equally near, the earlier one is taken


@dataclass(frozen=True, kw_only=True)
class TimeReading:
    """Frames of rows by time.

    first, stop: int64[E], the frames that are an episode's own. times: float64[R], the time of each row; frames:
    int64[R], the nearest own frame; distance: float64[R], seconds from one to the other, infinite without own frames
    or a finite stamp. gap: bool[R], no frame of the whole video lies within half a frame, but a later one follows:
    frames are missing there, while at the end of a video those may be missing that were lost anywhere.
    """

    rows: VideoRows
    clock: VideoClock
    first: np.ndarray
    stop: np.ndarray
    times: np.ndarray
    frames: np.ndarray
    distance: np.ndarray
    gap: np.ndarray

    @cached_property
    def frame(self) -> float:
        """Seconds from one frame of the video to the next."""
        return self.clock.interval or 1 / self.rows.fps

    @property
    def longer(self) -> float:
        """The longer one of a frame of the video and of the data, in seconds."""
        return max(self.frame, 1 / self.rows.fps)

    @cached_property
    def is_inside(self) -> np.ndarray:
        """bool[R], rows with an own frame within half a frame (the longer one) of their time."""
        return self.distance <= (TOLERANCE + SLACK) * self.longer + self.clock.tick

    @property
    def counts(self) -> np.ndarray:
        """int64[E], number of frames that are an episode's own."""
        return self.stop - self.first


def read_by_time(rows: VideoRows, clock: VideoClock, *, bounded: bool) -> TimeReading:
    """The nearest own frame of each row.

    The own frames of an episode end where the next one begins, or, when `bounded`, at its to_timestamp if that comes
    first.
    """
    frame = 1 / rows.fps
    shorter, longer = sorted((clock.interval or frame, frame))
    seconds = clock.seconds
    nearest_begin = nearest(seconds, rows.begin, longer)
    # from_timestamp names a frame if one is near; otherwise (a hole, a slow video) the first one after it.
    is_near = np.abs(seconds[nearest_begin] - rows.begin) <= (TOLERANCE + SLACK) * shorter
    first = np.where(is_near, nearest_begin, np.searchsorted(seconds, rows.begin))
    stop = np.append(first[1:], len(clock))
    if bounded:
        # Half a frame before the end, so that rounding does not give an episode the first frame of the next one.
        end = np.where(np.isfinite(rows.end), rows.end, rows.needed)
        stop = np.maximum(np.minimum(stop, np.searchsorted(seconds, end - TOLERANCE * shorter)), first)
    times = np.repeat(rows.begin, rows.lengths) + rows.stamps
    nearest_frame = nearest(seconds, times, longer)
    low, high = np.repeat(first, rows.lengths), np.repeat(stop, rows.lengths)
    # The nearest frame of all may belong to a neighbouring episode; the nearest own frame then lies too far away.
    frames = np.clip(nearest_frame, low, np.maximum(high - 1, low)).clip(max=len(clock) - 1)
    limit = (TOLERANCE + SLACK) * longer + clock.tick
    has_own = (high > low) & np.isfinite(times)
    return TimeReading(
        rows=rows,
        clock=clock,
        first=first,
        stop=stop,
        times=times,
        frames=frames,
        distance=np.where(has_own, np.abs(seconds[frames] - times), np.inf),
        gap=(np.abs(seconds[nearest_frame] - times) > limit) & (times < seconds[-1]),
    )


def nearest(seconds: np.ndarray, times: np.ndarray, frame: float) -> np.ndarray:
    """Index of the frame nearest to each time, the earlier one of two that are equally near; any for NaN."""
    if len(seconds) < 2:
        return np.zeros(len(times), np.int64)
    right = np.searchsorted(seconds, times).clip(1, len(seconds) - 1)
    is_right = seconds[right] - times + TIE * frame < times - seconds[right - 1]
    return np.where(is_right, right, right - 1)

"""Times at which a video shows its frames, read from the container without decoding.

Times lie on the presentation clock (pts times time base), the clock that LeRobot, torchcodec and PyAV report: edit
lists are applied, and the start time of the stream is not subtracted. The first frame of a video that starts at 0.5 s
is therefore shown at 0.5 s.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import av.error
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from visuomotor.data.lerobot.layout import DataError
from visuomotor.data.lerobot.video import open_video


@dataclass(frozen=True, kw_only=True)
class VideoClock:
    """Presentation times of all frames of a video: `ticks` int64[N] ascending, each `tick` seconds long."""

    ticks: np.ndarray
    tick: float

    def __len__(self) -> int:
        return len(self.ticks)

    @cached_property
    def seconds(self) -> np.ndarray:
        """float64[N]."""
        return self.ticks * self.tick

    @cached_property
    def interval(self) -> float:
        """Median time from one frame to the next in seconds; 0 for a single frame."""
        return float(np.median(np.diff(self.ticks))) * self.tick if len(self) > 1 else 0.0

    @property
    def unevenness(self) -> float:
        """Relative deviation of the steps between frames, see `unevenness`."""
        return unevenness(np.diff(self.ticks))


def unevenness(steps: np.ndarray) -> float:
    """Deviation from the median step, relative to it, that four of five steps do not exceed; infinite below 9 steps.

    Two rates that differ by less cannot be told apart: steps may vary (jitter), and some are longer (lost frames).
    """
    if len(steps) < 9:
        return float("inf")
    return float(np.quantile(np.abs(steps / np.median(steps) - 1), 0.8))


@dataclass(frozen=True, kw_only=True)
class VideoHeader:
    """Number of frames, frames per second and start time in seconds; 0 where the container does not state one."""

    frames: int
    rate: float
    start: float


def read_header(path: Path) -> VideoHeader:
    """Facts that the header of a video states; DataError when it cannot be opened."""
    with open_video(path) as container:
        stream = container.streams.video[0]
        return VideoHeader(
            frames=stream.frames,
            rate=float(stream.average_rate or 0),
            start=(stream.start_time or 0) * _tick(stream),
        )


def read_clock(path: Path, *, packets: bool = False) -> VideoClock:
    """Presentation times of a video, by its index where that is enough, else (or with `packets`) by all its packets.

    Raises:
        DataError: The file cannot be read, or does not show each frame at a time of its own.
    """
    try:
        with open_video(path) as container:
            stream = container.streams.video[0]
            ticks = None if packets else _index_ticks(stream)
            ticks = _packet_ticks(container, stream, path) if ticks is None else ticks
            clock = VideoClock(ticks=ticks, tick=_tick(stream))
    except av.error.FFmpegError as error:
        raise DataError(
            path, f"is not a readable video ({error.strerror}). It is damaged or cut off: copy it again."
        ) from error
    if not len(clock):
        raise DataError(path, "holds no frame. Copy the video again from where the data set came from.")
    same = int(np.count_nonzero(np.diff(clock.ticks) <= 0))
    if same:
        raise DataError(
            path, f"shows {same} frames at the same time as another one, so a time does not name a frame. "
            f"Encode the video again with increasing time stamps."
        )  # fmt: skip
    return clock


def _tick(stream: VideoStream) -> float:
    assert stream.time_base is not None, "an open stream has a time base"
    return float(stream.time_base)


def _index_ticks(stream: VideoStream) -> np.ndarray | None:
    """Times by the index of the container, or None where the index does not determine them.

    The index holds decoding times. Without reordered frames they are the presentation times; with reordered frames at
    a constant rate both are the same series, shifted to the start of the stream.
    """
    entries = stream.index_entries
    if not stream.frames or len(entries) != stream.frames:
        return None  # Matroska lists key frames only, a fragmented mp4 no frames
    ticks = np.array([entry.timestamp for entry in entries if not entry.is_discard], np.int64)
    if not stream.codec_context.has_b_frames:
        return ticks
    # Decoding times of reordered frames are not those of showing them, unless both are evenly spaced.
    steps = np.diff(ticks)
    if stream.start_time is None or len(ticks) != stream.frames or (steps != steps[:1]).any():
        return None
    return ticks - ticks[0] + stream.start_time


def _packet_ticks(container: InputContainer, stream: VideoStream, path: Path) -> np.ndarray:
    packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
    ticks = [packet.pts for packet in packets if packet.pts is not None]
    if len(ticks) != len(packets):
        raise DataError(
            path, f"gives no presentation time for {len(packets) - len(ticks)} of its {len(packets)} frames. "
            f"Encode the video again as mp4."
        )  # fmt: skip
    # Packets come in the order of decoding.
    return np.sort(np.array(ticks, np.int64))

"""Videos: encode an episode, join episodes into one file without encoding again, decode any frames.

Frames are yuv420p with a key frame at every second one (g=2), so a random frame costs at most two decodes. h264 is
written without CABAC and deblocking (`tune=fastdecode`): a quarter larger, decoded twice as fast.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, cast

import av
import av.error
import numpy as np
from av.container import InputContainer, OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from visuomotor.data.lerobot.layout import DataError

CODECS: dict[str, tuple[str, dict[str, str]]] = {
    "h264": ("libx264", {"crf": "23", "preset": "veryfast", "tune": "fastdecode", "bf": "0"}),
    "av1": ("libsvtav1", {"crf": "30", "preset": "12", "svtav1-params": "fast-decode=1:lp=1"}),
}
GOP = 2
OPEN_DECODERS = 16


def rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def encode_video(path: Path, frames: np.ndarray, *, fps: float, codec: str = "h264") -> None:
    """Write uint8[n, h, w, 3] as an mp4 that `DatasetWriter.add(..., videos=...)` takes. Height and width are even."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"Video frames must be uint8[n, h, w, 3] with n > 0, not {frames.dtype}{list(frames.shape)}.")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(
            f"Video needs an even height and width, not {height}x{width}. Crop by a pixel, or store images."
        )
    encoder, options = CODECS[codec]
    with ordinary_scheduling(), av.open(str(path), "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(encoder, rate=rate(fps), options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = GOP
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Keep this thread's scheduling: SVT-AV1 makes the caller real-time where it may (root), and leaves it so.

    A real-time process that is busy can starve the whole machine.
    """
    if not hasattr(os, "sched_getscheduler"):  # not on every system
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


class VideoJoiner:
    """Appends episodes' mp4 files to one mp4 by copying packets. Use `fits` before `append`."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self._step = path, 1 / rate(fps)
        self._container: OutputContainer = av.open(str(path), "w", format="mp4")
        self._stream: VideoStream | None = None
        self._signature: tuple[Any, ...] = ()
        self.frames = 0
        self.bytes = 0

    def fits(self, path: Path) -> bool:
        """Whether the codec's parameters in `path` equal those of the episodes joined so far."""
        with av.open(str(path)) as source:
            return self._stream is None or _signature(source.streams.video[0]) == self._signature

    def append(self, path: Path) -> None:
        """Copy the packets of `path`, which starts with a key frame and has no B-frames."""
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            if self._stream is None:
                self._stream = self._container.add_stream_from_template(stream, opaque=True)
                self._stream.time_base = self._step
                self._signature = _signature(stream)
            for packet in source.demux(stream):
                if not packet.size:
                    continue  # the end of the file
                packet.stream = self._stream
                packet.time_base = self._step
                packet.pts = packet.dts = self.frames
                packet.duration = 1
                self.frames += 1
                self.bytes += packet.size
                self._container.mux(packet)

    def close(self) -> None:
        self._container.close()


def _signature(stream: VideoStream) -> tuple[Any, ...]:
    context = stream.codec_context
    return context.name, context.width, context.height, context.pix_fmt, context.extradata


def video_facts(path: Path) -> dict[str, Any]:
    """Height, width, codec (canonical name) and pixel format of an mp4."""
    with open_video(path) as container:
        context = container.streams.video[0].codec_context
        codec = {"libdav1d": "av1", "libaom-av1": "av1"}.get(context.name, context.name)
        return {"height": context.height, "width": context.width, "codec": codec, "pix_fmt": context.pix_fmt}


def open_video(path: Path) -> InputContainer:
    if not path.exists():
        raise DataError(path, "is missing. Copy the video again from where the data set came from.")
    try:
        container = av.open(str(path))
    except av.error.FFmpegError as error:
        raise DataError(
            path, f"is not a readable video ({error.strerror}). It is damaged or cut off: copy it again."
        ) from error
    if not container.streams.video:
        container.close()
        raise DataError(path, "holds no video stream. Copy the video again from where the data set came from.")
    return container


class Decoder:
    """One open video file. `read` takes ascending presentation times, and seeks only where that saves decoding."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._container = open_video(path)
        self._stream = self._container.streams.video[0]
        self._stream.codec_context.thread_count = 1
        assert self._stream.time_base is not None, "an open stream has a time base"
        self._second = round(1 / self._stream.time_base)  # in ticks
        frame = self._second / float(self._stream.average_rate or 1)
        self._near = _key_spacing(self._stream) * frame
        self._reformatter = VideoReformatter()
        self._frames: Iterator[VideoFrame] = iter(())
        self._position: float = float("-inf")  # ticks of the frame decoded last, -inf when there is none
        self._damaged = False

    def read(self, ticks: np.ndarray) -> Iterator[np.ndarray]:
        """RGB uint8[h, w, 3] of the frames shown at exactly these ascending times, in ticks of the video's time base.

        Raises:
            FFmpegError: The file cannot be decoded. LookupError: No frame has this time, or its data are damaged.
        """
        image: np.ndarray | None = None
        for target in ticks.tolist():
            if image is None or self._position != target:
                frame = self._find(target)
                image = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            yield image

    def _find(self, target: int) -> VideoFrame:
        if 0 < target - self._position <= self._near:
            try:
                frame, _ = self._scan(target)
                if frame is not None:
                    return frame
            except (av.error.FFmpegError, LookupError):
                pass  # a frame on the way is broken, the one that is wanted perhaps not
        back = 0
        while True:
            self._container.seek(max(target - back, 0), stream=self._stream, backward=True)
            self._frames, self._position, self._damaged = self._container.decode(self._stream), float("-inf"), False
            frame, first = self._scan(target)
            if frame is not None:
                return frame
            if first <= target or back > target:
                raise LookupError("the video ends before it, or has no frame at its time")
            back = 2 * back + self._second  # the key frame found is shown later than it is stored

    def _scan(self, target: int) -> tuple[VideoFrame | None, float]:
        """(the frame at `target` or None, time of the first frame decoded); raises when the frame is damaged."""
        first = float("-inf")
        for frame in self._frames:
            self._position = float("-inf") if frame.pts is None else frame.pts
            first = self._position if first == float("-inf") else first
            self._damaged = frame.is_corrupt or (self._damaged and not frame.key_frame)
            if self._position == target:
                if self._damaged:
                    self._position = float("-inf")
                    raise LookupError("its data are damaged")
                return frame, first
            if self._position > target:
                break
        self._position = float("-inf")
        return None, first

    def close(self) -> None:
        self._container.close()


def _key_spacing(stream: VideoStream) -> int:
    """Frames from one key frame to the next, by the first ones of the file's index (8 without an index)."""
    entries = list(islice(stream.index_entries, 256))
    keys = sum(entry.is_keyframe for entry in entries)
    return max(2, round(len(entries) / keys)) if keys else 8


class DecoderPool:
    """The most recently used decoders, each thread and each process its own (a decoder has a file position)."""

    def __init__(self, size: int = OPEN_DECODERS) -> None:
        self._size = size
        self._local = threading.local()

    def get(self, path: Path) -> Decoder:
        if getattr(self._local, "process", None) != os.getpid():
            self._local.process, self._local.open = os.getpid(), OrderedDict()
        decoders: OrderedDict[Path, Decoder] = self._local.open
        if path not in decoders:
            decoders[path] = Decoder(path)
            if len(decoders) > self._size:
                decoders.popitem(last=False)[1].close()
        decoders.move_to_end(path)
        return decoders[path]

    def drop(self, path: Path) -> None:
        """Forget a decoder whose file turned out broken."""
        decoders: OrderedDict[Path, Decoder] = getattr(self._local, "open", None) or OrderedDict()
        if path in decoders:
            decoders.pop(path).close()

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self._size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["size"])

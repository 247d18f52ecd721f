"""Where a camera's frames go while writing: joined mp4 files, or PNG for the Parquet table."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from visuomotor.data.lerobot import layout
from visuomotor.data.lerobot.clock import read_clock
from visuomotor.data.lerobot.layout import DataError, chunk_of
from visuomotor.data.lerobot.stats import ImageHistogram, sample_frames
from visuomotor.data.lerobot.video import Decoder, VideoJoiner, encode_video, open_video, video_facts


class VideoSink:
    """One camera's mp4 files. `prepare` may refuse an episode, `commit` appends it, `location` tells where it went."""

    def __init__(self, root: Path, key: str, fps: float, codec: str) -> None:
        self._root, self._key, self._fps, self._codec = root, key, fps, codec
        self._folder = tempfile.TemporaryDirectory(prefix=".encoding-", dir=root)
        self._joiner: VideoJoiner | None = None
        self._file = -1
        self._facts: dict[str, Any] = {}
        self._pending = Path()
        self._span = (0.0, 0.0)
        self.histogram = ImageHistogram()

    @property
    def size(self) -> tuple[int, int]:
        return self._facts["height"], self._facts["width"]

    def prepare(self, frames: np.ndarray | None, video: Path | None, length: int) -> None:
        self.histogram = ImageHistogram()
        picks = sample_frames(length)
        if video is None:
            assert frames is not None
            video = Path(self._folder.name) / "episode.mp4"
            encode_video(video, frames, fps=self._fps, codec=self._codec)
            self.histogram.add(frames[picks])
        else:
            video = Path(video)
            self._check(video, length)
            decoder = Decoder(video)
            try:
                self.histogram.add(np.stack(list(decoder.read(read_clock(video).ticks[picks]))))
            except (OSError, LookupError) as error:
                raise DataError(video, f"cannot be decoded ({error}). Encode the episode again.") from error
            finally:
                decoder.close()
        self._facts = video_facts(video)
        self._pending = video

    def _check(self, video: Path, length: int) -> None:
        with open_video(video) as container:
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 0)
            packets = [p for p in container.demux(stream) if p.size]
        if len(packets) != length or (length > 1 and abs(fps - self._fps) > 1e-3 * self._fps):
            raise DataError(
                video, f"has {len(packets)} frames at {fps:g} a second, but the episode has {length} at {self._fps:g}. "
                f"Encode the episode's frames again."
            )  # fmt: skip
        if not packets[0].is_keyframe or any(p.pts != p.dts for p in packets):
            raise DataError(
                video, "starts without a key frame or holds B-frames, so it cannot be joined to others. "
                "Encode the episode with visuomotor.data.lerobot.encode_video."
            )  # fmt: skip

    def commit(self, total: ImageHistogram) -> None:
        video = self._pending
        if self._joiner and (self._joiner.bytes > layout.VIDEO_FILE_MB * 2**20 or not self._joiner.fits(video)):
            self._joiner.close()
            self._joiner = None
        if self._joiner is None:
            self._file += 1
            chunk, file = chunk_of(self._file)
            path = self._root / layout.VIDEO_PATH.format(video_key=self._key, chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._joiner = VideoJoiner(path, self._fps)
        start = self._joiner.frames
        self._joiner.append(video)
        self._span = (start / self._fps, self._joiner.frames / self._fps)
        total.merge(self.histogram)

    def location(self) -> dict[str, Any]:
        chunk, file = chunk_of(self._file)
        values = (chunk, file, *self._span)
        names = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
        return {f"videos/{self._key}/{name}": value for name, value in zip(names, values, strict=True)}

    def feature(self) -> dict[str, Any]:
        facts = {f"video.{name}": value for name, value in self._facts.items()}
        facts |= {"video.is_depth_map": False, "video.fps": self._fps, "video.channels": 3, "has_audio": False}
        names = ["height", "width", "channels"]
        return {"dtype": "video", "shape": [*self.size, 3], "names": names, "info": facts}

    def close(self) -> None:
        if self._joiner:
            self._joiner.close()
            self._joiner = None
        self._folder.cleanup()


class ImageSink:
    """One camera's frames as PNG; `encoded` holds those of the episode being added."""

    def __init__(self, root: Path, key: str, fps: float, codec: str) -> None:
        self._key, self.size = key, (0, 0)
        self.encoded: list[dict[str, Any]] = []
        self.histogram = ImageHistogram()

    def prepare(self, frames: np.ndarray | None, video: Path | None, length: int) -> None:
        if video is not None:
            raise ValueError(f"Storage is image, so {self._key} takes frames and not the video {video}.")
        assert frames is not None
        self.encoded = [{"bytes": _png(f), "path": f"frame-{i:06d}.png"} for i, f in enumerate(frames)]
        self.histogram = ImageHistogram()
        self.histogram.add(frames[sample_frames(length)])
        self.size = (frames.shape[1], frames.shape[2])

    def commit(self, total: ImageHistogram) -> None:
        total.merge(self.histogram)

    def location(self) -> dict[str, Any]:
        return {}

    def feature(self) -> dict[str, Any]:
        return {"dtype": "image", "shape": [*self.size, 3], "names": ["height", "width", "channels"]}

    def close(self) -> None:
        self.encoded = []


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

"""DatasetWriter: episodes in, a LeRobotDataset v3.0 folder out.

Everything is written into a hidden sibling folder, which takes the data set's name only in `close`, so that a folder
with the data set's name is always complete.
"""

import contextlib
import errno
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from visuomotor.contract import Embodiment, Episode
from visuomotor.data.lerobot import layout
from visuomotor.data.lerobot.columns import annotation_columns, require_valid
from visuomotor.data.lerobot.images import ImageSink, VideoSink
from visuomotor.data.lerobot.layout import ACTION, DEFAULT_FEATURES, IMAGE_PREFIX, STATE
from visuomotor.data.lerobot.stats import ImageHistogram, numeric_stats
from visuomotor.data.lerobot.tables import EpisodeTable, FrameTable, write_tasks
from visuomotor.data.lerobot.video import CODECS
from visuomotor.locks import FolderLock

logger = logging.getLogger(__name__)


class DatasetWriter:
    """Writes a LeRobot v3.0 data set at `root`. Also a context manager: an exception inside discards what was written.

    fps is frames a second. `storage="image"` keeps PNG in the Parquet files (lossless, large). An existing non-empty
    `root` is refused with FileExistsError unless `overwrite`, and then replaced only in `close`. Until then `root` is
    locked: a second writer gets FolderInUse (see `FolderLock`, also for `break_lock`).
    """

    def __init__(
        self,
        root: Path | str,
        embodiment: Embodiment,
        *,
        fps: float,
        storage: Literal["video", "image"] = "video",
        codec: Literal["h264", "av1"] = "h264",
        robot_type: str | None = None,
        overwrite: bool = False,
        break_lock: bool = False,
    ) -> None:
        if storage not in ("video", "image") or codec not in CODECS:
            raise ValueError(
                f"storage must be video or image and codec one of {sorted(CODECS)}: {storage!r}, {codec!r}."
            )
        if not fps > 0:
            raise ValueError(f"fps must be positive, not {fps}.")
        self.root = Path(root)
        self.embodiment, self.fps, self.storage, self.codec = embodiment, fps, storage, codec
        self.robot_type = robot_type or embodiment.name
        self.num_episodes = self.num_frames = 0
        self._final = self.root.resolve()
        self._partial = self._final.with_name(f".{self._final.name}.partial")
        self._lock = FolderLock(self.root, beside=True, break_lock=break_lock)
        try:
            self._prepare(overwrite)
        except BaseException:
            self._lock.release()
            raise
        self._keys = {c.name: IMAGE_PREFIX + c.name for c in embodiment.cameras}
        sink = VideoSink if storage == "video" else ImageSink
        self._sinks = {c: sink(self._partial, key, fps, codec) for c, key in self._keys.items()}
        self._frames: FrameTable | None = None
        self._episodes = EpisodeTable(self._partial)
        self._tasks: dict[str, int] = {}
        self._features: dict[str, dict[str, Any]] = {}
        self._history: dict[str, list[np.ndarray]] = {}
        self._histograms = {key: ImageHistogram() for key in self._keys.values()}
        self._closed = False

    def _prepare(self, overwrite: bool) -> None:
        """Refuse a folder that is not to be replaced, and make the hidden one."""
        if _occupied(self.root) and overwrite and not (self.root / layout.INFO_PATH).exists():
            raise FileExistsError(
                f"{self.root} is not a LeRobot data set, so it is not replaced. Choose another folder."
            )
        if _occupied(self.root) and not overwrite:
            raise FileExistsError(f"{self.root} exists. Choose another folder, or pass overwrite=True to replace it.")
        if self._partial.exists():
            logger.warning("discarding %s, left by an interrupted writer", self._partial)
            shutil.rmtree(self._partial)
        (self._partial / "meta").mkdir(parents=True)

    def add(self, episode: Episode, videos: Mapping[str, Path] | None = None) -> int:
        """Append an episode and return its index.

        videos: {camera: mp4 of the episode, from `encode_video` with the same codec}; these cameras may then be absent
        from `episode.images`. A refused episode (ValueError) leaves the data set as it was.
        """
        if self._closed:
            raise ValueError(f"{self.root} is already closed; open a new DatasetWriter.")
        videos = dict(videos or {})
        require_valid(episode, self.embodiment, videos, self.num_episodes)
        length, index = len(episode.actions), self.num_episodes
        with self._discarding(OSError):
            for camera, sink in self._sinks.items():
                sink.prepare(episode.images.get(camera), videos.get(camera), length)
        numeric = self._numeric(episode)
        text = annotation_columns(episode.annotations, self.fps)
        self._declare(numeric, text)
        with self._discarding(BaseException):  # half an episode may be on disk
            self._commit(episode, numeric, text)
        self.num_episodes, self.num_frames = index + 1, self.num_frames + length
        return index

    def close(self) -> None:
        """Finish all files and give the folder its name. Without an episode this is a ValueError."""
        if self._closed:
            return
        if not self.num_episodes:
            self.discard()
            raise ValueError(f"Nothing was added, so {self.root} was not written. A data set needs an episode.")
        with self._discarding(BaseException):
            self._finish_files()
            self._write_meta()
        self._closed = True
        with self._lock:
            if self._final.exists():
                old = self._final.with_name(f".{self._final.name}.replaced")
                shutil.rmtree(old, ignore_errors=True)
                self._final.rename(old)
                self._partial.rename(self._final)
                shutil.rmtree(old)
            else:
                self._partial.rename(self._final)

    def discard(self) -> None:
        """Stop, and remove what was written; an existing data set of that name stays."""
        if not self._closed:
            self._closed = True
            with self._lock:
                with contextlib.suppress(OSError, ValueError):  # a full disk refuses the ends of the files, too
                    self._finish_files()
                shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    @contextlib.contextmanager
    def _discarding(self, kind: type[BaseException]) -> Iterator[None]:
        """Errors of this kind discard what was written; a full disk is explained."""
        try:
            yield
        except kind as error:
            self.discard()
            if getattr(error, "errno", None) != errno.ENOSPC:
                raise
            raise OSError(
                errno.ENOSPC,
                f"The disk of {self._final.parent} is full after {self.num_episodes} episodes, so {self.root} was not "
                f"written. Free some space, or choose a folder on another disk, and write it again",
            ) from error

    def _numeric(self, episode: Episode) -> dict[str, np.ndarray]:
        length = len(episode.actions)
        frame = np.arange(length, dtype=np.int64)
        task = self._tasks.get(episode.instruction, len(self._tasks))
        return {
            STATE: episode.state.astype(np.float32, copy=False),
            ACTION: episode.actions.astype(np.float32, copy=False),
            "timestamp": (frame / self.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, self.num_episodes, np.int64),
            "index": frame + self.num_frames,
            "task_index": np.full(length, task, np.int64),
        }

    def _commit(self, episode: Episode, numeric: dict[str, np.ndarray], text: dict[str, np.ndarray]) -> None:
        for camera, sink in self._sinks.items():
            sink.commit(self._histograms[self._keys[camera]])
        assert self._frames is not None
        png = {self._keys[c]: s.encoded for c, s in self._sinks.items() if isinstance(s, ImageSink)}
        place = self._frames.write(numeric | text, png)
        self._record(episode, numeric | {k: v for k, v in text.items() if v.dtype != object}, place)

    def _declare(self, numeric: dict[str, np.ndarray], text: dict[str, np.ndarray]) -> None:
        """Fix the columns at the first episode; later ones must have the same."""
        features: dict[str, dict[str, Any]] = {}
        for key, components in ((STATE, self.embodiment.state), (ACTION, self.embodiment.action)):
            names = [f"{c.name}.{d}" for c in components for d in c.dims]
            features[key] = {"dtype": "float32", "shape": [numeric[key].shape[1]], "names": names}
        for camera, key in self._keys.items():
            features[key] = self._sinks[camera].feature()
        for key in text:
            dtype = layout.ANNOTATION_DTYPES[key.removeprefix(layout.ANNOTATION_PREFIX)]
            features[key] = {"dtype": dtype, "shape": [1], "names": None}
        features |= DEFAULT_FEATURES
        if self._frames is None:
            self._features, self._frames = features, FrameTable(self._partial, features)
        elif features != self._features:
            wrong = sorted(
                k for k in features.keys() | self._features.keys() if features.get(k) != self._features.get(k)
            )
            raise ValueError(
                f"Episode {self.num_episodes} differs from the earlier ones in {', '.join(wrong)}. All episodes of a "
                f"data set have the same columns and image sizes: write two data sets, or convert the episode."
            )

    def _record(self, episode: Episode, numeric: dict[str, np.ndarray], place: tuple[int, int]) -> None:
        length = len(episode.actions)
        self._tasks.setdefault(episode.instruction, len(self._tasks))
        row: dict[str, Any] = {
            "episode_index": self.num_episodes,
            "tasks": [episode.instruction],
            "length": length,
            "data/chunk_index": place[0],
            "data/file_index": place[1],
            "dataset_from_index": self.num_frames,
            "dataset_to_index": self.num_frames + length,
            "info": json.dumps(episode.info),
        }
        for key, values in numeric.items():
            self._history.setdefault(key, []).append(values)
            row |= {f"stats/{key}/{name}": value for name, value in numeric_stats(values).items()}
        for camera, key in self._keys.items():
            sink = self._sinks[camera]
            row |= sink.location()
            row |= {f"stats/{key}/{name}": value for name, value in sink.histogram.stats().items()}
        self._episodes.add(row)

    def _finish_files(self) -> None:
        for sink in self._sinks.values():
            sink.close()
        if self._frames is not None:
            self._frames.close()

    def _write_meta(self) -> None:
        self._episodes.close()
        write_tasks(self._partial, list(self._tasks))
        stats = {key: numeric_stats(np.concatenate(parts)) for key, parts in self._history.items()}
        stats |= {key: histogram.stats() for key, histogram in self._histograms.items()}
        (self._partial / layout.STATS_PATH).write_text(json.dumps(stats, indent=4) + "\n")
        sizes = {camera: sink.size for camera, sink in self._sinks.items()}
        cameras = tuple(replace(c, height=sizes[c.name][0], width=sizes[c.name][1]) for c in self.embodiment.cameras)
        replace(self.embodiment, cameras=cameras).save(self._partial / layout.EMBODIMENT_PATH)
        info = {
            "codebase_version": layout.CODEBASE_VERSION,
            "robot_type": self.robot_type,
            "total_episodes": self.num_episodes,
            "total_frames": self.num_frames,
            "total_tasks": len(self._tasks),
            "chunks_size": layout.CHUNK_FILES,
            "data_files_size_in_mb": layout.DATA_FILE_MB,
            "video_files_size_in_mb": layout.VIDEO_FILE_MB,
            "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
            "splits": {"train": f"0:{self.num_episodes}"},
            "data_path": layout.DATA_PATH,
            "video_path": layout.VIDEO_PATH if self.storage == "video" else None,
            "features": self._features,
        }
        (self._partial / layout.INFO_PATH).write_text(json.dumps(info, indent=4) + "\n")


def _occupied(root: Path) -> bool:
    return root.exists() and (not root.is_dir() or any(root.iterdir()))

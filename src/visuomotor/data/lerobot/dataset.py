"""Dataset: a LeRobotDataset v3.0 folder, ours or somebody else's: numbers in memory, frames decoded on demand."""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from visuomotor.contract import Annotation, Embodiment
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.lerobot import layout
from visuomotor.data.lerobot.cache import open_cache
from visuomotor.data.lerobot.columns import parse_annotation
from visuomotor.data.lerobot.frames import FrameSource, ImageFrames
from visuomotor.data.lerobot.layout import ANNOTATION_DTYPES, ANNOTATION_PREFIX, DataError, camera_name, read_info
from visuomotor.data.lerobot.mismatch import Mismatch
from visuomotor.data.lerobot.reading import read_tables
from visuomotor.data.lerobot.spans import camera_rows, row_times
from visuomotor.data.lerobot.stream import stream_blocks
from visuomotor.data.lerobot.video_frames import VideoFrames


class Dataset(EpisodeSource):
    """A data set, read-only. Rows are global frame numbers, 0 to num_frames - 1; episodes count from 0.

    `columns` has every numeric column of all frames: [n] for scalars, [n, d] for vectors (state and action always).
    Opening reads tables only; a table that is broken or disagrees with info.json raises DataError. What concerns
    single frames (a missing or cut video, NaN) raises DataError with `row` when that frame is asked for.
    NaN and infinity in a column raise DataError. May be pickled to worker processes and used from several threads.
    """

    is_cached = False  # frames come from a memory map

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._info = read_info(self.root)
        self._tables = read_tables(self.root, self._info)
        self.starts = self._tables.starts
        self.columns: dict[str, np.ndarray] = self._tables.columns
        self.fps = self._info.fps
        self.robot_type = self._info.robot_type
        self._keys = {camera_name(key): key for key in self._info.image_keys}
        self.cameras = tuple(self._keys)
        path = self.root / layout.EMBODIMENT_PATH
        self.embodiment: Embodiment | None = Embodiment.load(path) if path.exists() else None
        self._strings: dict[str, pa.Array] = {}
        self._hash: str | None = None
        self._times = row_times(self.fps, self.starts, self.columns)
        self._sources: Mapping[str, FrameSource] = {c: self._source(key) for c, key in self._keys.items()}

    def __repr__(self) -> str:
        return f"Dataset({str(self.root)!r}, {self.num_episodes} episodes, {self.num_frames} frames, {self.cameras})"

    @property
    def data_files(self) -> list[Path]:
        """The files that hold the frames' numbers, in the order of their rows."""
        return [path for path, _ in self._tables.data_files]

    def require_embodiment(self) -> Embodiment:
        """The embodiment, or FileNotFoundError with how to make one."""
        return self.embodiment or Embodiment.load(self.root / layout.EMBODIMENT_PATH)

    def image_size(self, camera: str) -> tuple[int, int]:
        """Stored (height, width) of a camera."""
        feature = self._info.features[self._key(camera)]
        names = [str(n) for n in feature.get("names") or []]
        shape = feature["shape"]
        channels_first = names[:1] in (["channels"], ["channel"]) or (not names and shape[0] == 3)
        return (shape[1], shape[2]) if channels_first else (shape[0], shape[1])

    def feature(self, column: str) -> dict[str, Any]:
        """What info.json says of a column or camera (dtype, shape, names)."""
        return self._info.features[self._keys.get(column, column)]

    def instructions(self, rows: np.ndarray) -> list[str]:
        """The instruction in force at each row, by its task_index."""
        rows = self._checked(rows)
        indices = self.columns.get("task_index")
        if self._tables.tasks and indices is not None:
            return [self._tables.tasks[int(i)] for i in indices[rows]]
        named = self._tables.episodes.get("tasks") or [None] * self.num_episodes
        return [(named[int(e)] or [""])[0] for e in self.episode_of(rows)]

    def info(self, episode: int) -> dict[str, Any]:
        """`Episode.info` of an episode; empty for data sets that have none."""
        self.episode_slice(episode)
        texts = self._tables.episodes.get("info")
        return json.loads(texts[episode]) if texts and texts[episode] else {}

    def has(self, annotation: str) -> bool:
        """Whether there is this annotation: subtask, boxes, trace, point, progress, gripper_switch or contact."""
        return ANNOTATION_PREFIX + annotation in self._info.features

    def annotations(self, rows: np.ndarray) -> list[Annotation] | None:
        """The annotation of each row, or None when the data set has none at all (see `has` for each)."""
        names = [name for name in ANNOTATION_DTYPES if self.has(name) and name != "trace"]
        if not names:
            return None
        values = {name: self._values(ANNOTATION_PREFIX + name, rows) for name in names}
        return [parse_annotation({name: values[name][i] for name in names}) for i in range(len(rows))]

    def traces(self, camera: str, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """Future end-effector points int64[k, 2] of each row (default: all), 0-1000, k at most 25."""
        if not self.has("trace"):
            return super().traces(camera, rows)
        texts = self._values(ANNOTATION_PREFIX + "trace", np.arange(self.num_frames) if rows is None else rows)
        return [np.array(json.loads(t or "{}").get(camera, []), np.int64).reshape(-1, 2) for t in texts]

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        """Images uint8[n, h, w, 3] of the rows, in any order and with duplicates; decoded in ascending order."""
        self._key(camera)
        rows = np.atleast_1d(self._checked(rows))
        if not len(rows):
            return np.empty((0, *self.image_size(camera), 3), np.uint8)
        unique, inverse = np.unique(rows, return_inverse=True)
        images = self._sources[camera].read(unique)
        return images if np.array_equal(unique, rows) else images[inverse]

    def stream(
        self,
        rng: np.random.Generator,
        *,
        rows: np.ndarray | None = None,
        cameras: tuple[str, ...] | None = None,
        chunk: int = 32,
        buffer: int = 1024,
        skip: int = 0,
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Each row once in an order drawn from `rng`, as (row, {camera: uint8[h, w, 3]}), faster than at random.

        Runs of `chunk` frames are decoded in sequence; runs are shuffled, and within `buffer` frames the frames too.
        `skip` leaves out the first samples without decoding them, to go on where an earlier stream ended.
        """
        rows = np.arange(self.num_frames) if rows is None else np.unique(self._checked(rows))
        for block in stream_blocks(rows, self.episode_of(rows), rng, chunk=chunk, buffer=buffer):
            rest = block[skip:]
            skip = max(0, skip - len(block))
            if not len(rest):
                continue
            order = np.argsort(rest)
            images = {name: self._sources[name].read(rest[order]) for name in cameras or self.cameras}
            for row, place in zip(rest, np.argsort(order), strict=True):
                yield int(row), {name: images[name][place] for name in images}

    def cached(self, size: tuple[int, int] | None, folder: Path | str) -> "Dataset":
        """The same data set with frames from a memory map in `folder`, resized to `size` (height, width).

        The first call decodes every frame once; later calls with the same data reuse what lies there.
        """
        clone = copy.copy(self)
        clone._sources = open_cache(self, size, Path(folder))
        clone.is_cached = True
        return clone

    def hash(self) -> str:
        """sha256 over meta, embodiment and Parquet contents and the videos' names and sizes."""
        if self._hash is None:
            digest = hashlib.sha256()
            for path in sorted(p for p in self.root.rglob("*") if p.is_file() and not p.name.startswith(".")):
                name = path.relative_to(self.root)
                if name.parts[0] not in ("meta", "data", "videos", layout.EMBODIMENT_PATH):
                    continue
                digest.update(f"{name.as_posix()}\0{path.stat().st_size}\0".encode())
                if name.parts[0] != "videos":
                    with path.open("rb") as file:
                        digest.update(hashlib.file_digest(file, "sha256").digest())
            self._hash = digest.hexdigest()
        return self._hash

    def check(self) -> list[DataError]:
        """What is wrong with single frames, as far as it shows without decoding: missing videos, numbers not finite."""
        found = [error for source in self._sources.values() for error in source.check()]
        for column, values in self.columns.items():
            finite = np.isfinite(values.reshape(self.num_frames, -1)).all(axis=1)
            found += [self._not_finite(column, int(row)) for row in np.flatnonzero(~finite)]
        return found

    def mismatches(self) -> dict[str, list[Mismatch]]:
        """{camera: findings about frames that do not fit their rows}, by all packets of all videos."""
        return {camera: source.examine() for camera, source in self._sources.items()}

    def _source(self, key: str) -> FrameSource:
        if self._info.features[key]["dtype"] == "image":
            return ImageFrames(self.root, key, self._tables.data_files, self.starts)
        rows = camera_rows(self.root, key, self._info, self._tables.episodes, self._times)
        video = VideoFrames(camera_name(key), rows)
        video.inspect()
        return video

    def _key(self, camera: str) -> str:
        if camera not in self._keys:
            raise ValueError(f"{self.root} has no camera {camera!r}; it has {', '.join(self.cameras) or 'none'}.")
        return self._keys[camera]

    def _values(self, key: str, rows: np.ndarray) -> Any:
        """Values of a numeric or string column for the rows."""
        rows = self._checked(rows)
        if key in self.columns:
            return self.columns[key][rows]
        if key not in self._strings:
            self._strings[key] = self._tables.strings(key)
        return self._strings[key].take(pa.array(rows)).to_pylist()

    def _not_finite(self, column: str, row: int, sample: int | None = None) -> DataError:
        episode = int(self.episode_of(row))
        return DataError(
            self._tables.data_file(row),
            f"{column} is not finite: {self.columns[column][row].tolist()}. "
            f"Repair the value, drop the episode, or pass --bad-samples quarantine.",
            row=row if sample is None else sample,
            episode=episode,
            frame=row - int(self.starts[episode]),
        )

"""Dataset: a LeRobotDataset v3.0 folder, ours or somebody else's. Numbers lie in memory, frames are decoded on demand."""

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.contract import Annotation, Embodiment
from visuomotor.data.lerobot import layout
from visuomotor.data.lerobot.columns import parse_annotation
from visuomotor.data.lerobot.frames import FrameSource, ImageFrames, VideoFrames
from visuomotor.data.lerobot.layout import ANNOTATION_DTYPES, ANNOTATION_PREFIX, DataError, camera_name, read_info
from visuomotor.data.lerobot.stream import stream_blocks
from visuomotor.data.lerobot.tables import guarded, read_parquet, read_tasks, to_numpy


class Dataset:
    """A data set, read-only. Rows are global frame numbers, 0 to num_frames - 1; episodes count from 0.

    `columns` has every numeric column of all frames: [n] for scalars, [n, d] for vectors (state and action always).
    Opening reads tables only; a table that is broken or disagrees with info.json raises DataError. What concerns
    single frames (a missing or cut video, NaN) raises DataError with `row` when that frame is asked for.
    May be pickled to worker processes and used from several threads.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self._info = read_info(self.root)
        self.fps = self._info.fps
        self.robot_type = self._info.robot_type
        self._keys = {camera_name(key): key for key in self._info.image_keys}
        self.cameras = tuple(self._keys)
        path = self.root / layout.EMBODIMENT_PATH
        self.embodiment: Embodiment | None = Embodiment.load(path) if path.exists() else None
        self._tasks = read_tasks(self.root)
        self._read_episodes()
        self._read_frames()
        self._strings: dict[str, pa.ChunkedArray] = {}
        self._finite: dict[str, np.ndarray] = {}
        self._hash: str | None = None
        self._sources: dict[str, FrameSource] = {c: self._source(key) for c, key in self._keys.items()}

    @property
    def num_episodes(self) -> int:
        return len(self._starts) - 1

    @property
    def num_frames(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        return f"Dataset({str(self.root)!r}, {self.num_episodes} episodes, {self.num_frames} frames, {self.cameras})"

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
        """What info.json says of a column (dtype, shape, names), by column or camera name."""
        return self._info.features[self._keys.get(column, column)]

    def episode_slice(self, episode: int) -> slice:
        """Rows of an episode."""
        if not 0 <= episode < self.num_episodes:
            raise IndexError(f"{self.root} has episodes 0 to {self.num_episodes - 1}, not {episode}.")
        return slice(int(self._starts[episode]), int(self._starts[episode + 1]))

    def episode_of(self, rows: np.ndarray | int) -> np.ndarray:
        """Episode of each row, int64 of the same shape."""
        return np.searchsorted(self._starts, self._checked(rows), side="right") - 1

    def instruction(self, episode: int, frame: int = 0) -> str:
        """The instruction in force at a frame of an episode (most data sets have one an episode)."""
        rows = self.episode_slice(episode)
        return self.instructions(np.array([rows.start + frame]))[0]

    def instructions(self, rows: np.ndarray) -> list[str]:
        """The instruction in force at each row, by its task_index."""
        tasks = self.columns.get("task_index")
        if tasks is None:
            return [(self._episodes["tasks"][int(e)] or [""])[0] for e in self.episode_of(rows)]
        return [self._tasks[int(i)] for i in tasks[self._checked(rows)]]

    def info(self, episode: int) -> dict[str, Any]:
        """`Episode.info` of an episode; empty for data sets that have none."""
        self.episode_slice(episode)
        text = self._episodes["info"][episode] if "info" in self._episodes else None
        return json.loads(text) if text else {}

    def has(self, annotation: str) -> bool:
        """Whether the data set carries an annotation: subtask, boxes, trace, point, progress, gripper_switch, contact."""
        return ANNOTATION_PREFIX + annotation in self._info.features

    def annotations(self, rows: np.ndarray) -> list[Annotation] | None:
        """The annotation of each row, or None when the data set has none at all (see `has` for each)."""
        names = [name for name in ANNOTATION_DTYPES if self.has(name) and name != "trace"]
        if not names:
            return None
        rows = self._checked(rows)
        values = {name: self._values(ANNOTATION_PREFIX + name, rows) for name in names}
        return [parse_annotation({name: values[name][i] for name in names}) for i in range(len(rows))]

    def traces(self, camera: str, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """Future end-effector points int64[k, 2] of each row (default: all), 0-1000, k at most 25."""
        if not self.has("trace"):
            raise ValueError(f"{self.root} has no trace annotation; collect it with annotations, or train without it.")
        rows = np.arange(self.num_frames) if rows is None else self._checked(rows)
        texts = self._values(ANNOTATION_PREFIX + "trace", rows)
        return [np.array(json.loads(t or "{}").get(camera, []), np.int64).reshape(-1, 2) for t in texts]

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        """Images uint8[n, h, w, 3] of the rows, in any order and with duplicates; decoded in ascending order."""
        key = self._key(camera)
        rows = np.atleast_1d(self._checked(rows))
        unique, inverse = np.unique(rows, return_inverse=True)
        images = self._sources[camera].read(unique)
        if len(unique) == len(rows) and (inverse[1:] > inverse[:-1]).all():
            return images
        assert images is not None, key
        return images[inverse]

    def windows(self, column: str, rows: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """(float32[n, horizon, d], is_pad bool[n, horizon]): `horizon` steps from each row on, clamped to its episode.

        Steps after the episode's end repeat its last value and are marked. A NaN or infinity raises DataError.
        """
        rows = np.atleast_1d(self._checked(rows))
        values = self._column(column)
        last = self._starts[self.episode_of(rows) + 1] - 1
        wanted = rows[:, None] + np.arange(horizon)
        taken = np.minimum(wanted, last[:, None])
        self._require_finite(column, rows, taken)
        window = values[taken].reshape(len(rows), horizon, -1)
        return window.astype(np.float32, copy=False), wanted > last[:, None]

    def values(self, column: str, rows: np.ndarray) -> np.ndarray:
        """float32[n, d] of a numeric column. A NaN or infinity raises DataError with the row."""
        return self.windows(column, rows, 1)[0][:, 0]

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
        """Each row once in an order drawn from `rng`, as (row, {camera: uint8[h, w, 3]}), several times the random rate.

        Contiguous runs of `chunk` frames are decoded in sequence; runs are shuffled, and within `buffer` frames the
        frames too. `skip` leaves out the first samples (to resume) almost without decoding them.
        """
        rows = np.arange(self.num_frames) if rows is None else np.sort(self._checked(rows))
        names = self.cameras if cameras is None else cameras
        for block in stream_blocks(rows, self.episode_of(rows), rng, chunk=chunk, buffer=buffer):
            if skip >= len(block):
                skip -= len(block)
                continue
            block, skip = block[skip:], 0
            order = np.argsort(block, kind="stable")
            images = {name: self._sources[name].read(block[order]) for name in names}
            place = np.empty(len(block), np.int64)
            place[order] = np.arange(len(block))
            for row, at in zip(block, place, strict=True):
                yield int(row), {name: images[name][at] for name in names}

    def cached(self, size: tuple[int, int] | None, folder: Path | str) -> "Dataset":
        """The same data set with frames from a memory map in `folder`, resized to `size` (height, width).

        The first call decodes every frame once; later calls with the same data reuse what lies there.
        """
        from visuomotor.data.lerobot.cache import open_cache

        clone = copy.copy(self)
        clone._sources = dict(open_cache(self, size, Path(folder)))
        return clone

    def hash(self) -> str:
        """sha256 over meta, embodiment and Parquet contents and the videos' names and sizes."""
        if self._hash is None:
            digest = hashlib.sha256()
            paths = [p for p in self.root.rglob("*") if p.is_file() and not p.name.startswith(".")]
            for path in sorted(paths):
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
        """What would go wrong with single frames, without decoding: missing or empty videos, numbers that are not finite."""
        found: list[DataError] = []
        for source in self._sources.values():
            found += source.check()
        for column, values in self.columns.items():
            if values.dtype.kind == "f":
                bad = np.flatnonzero(~self._finite_rows(column))
                found += [self._not_finite(column, int(row)) for row in bad]
        return found

    # reading the tables

    def _read_episodes(self) -> None:
        folder = self.root / "meta" / "episodes"
        paths = sorted(folder.rglob("*.parquet"))
        if not paths:
            raise DataError(folder, "holds no Parquet file with the episodes. Copy the data set again.")
        tables = []
        for path in paths:
            names = guarded(path, lambda path=path: pq.read_schema(path)).names
            tables.append(read_parquet(path, [n for n in names if not n.startswith("stats/")]))
        table = pa.concat_tables(tables, promote_options="permissive").sort_by("episode_index")
        self._episodes: dict[str, list[Any]] = {name: table[name].to_pylist() for name in table.column_names}
        count = self._info.total_episodes
        if self._episodes.get("episode_index") != list(range(count)):
            raise DataError(
                self.root / layout.INFO_PATH,
                f"says {count} episodes, but meta/episodes lists {table.num_rows}. "
                f"The data set was copied or edited halfway: restore both from the original.",
            )
        self._starts = np.concatenate([[0], np.cumsum(np.array(self._episodes["length"], np.int64))])

    def _read_frames(self) -> None:
        places = list(zip(self._episodes["data/chunk_index"], self._episodes["data/file_index"], strict=True))
        self._data_files: list[tuple[Path, int]] = []  # file, its first row
        parts: dict[str, list[np.ndarray]] = {}
        rows = 0
        for chunk, file in dict.fromkeys(places):
            path = self.root / self._info.data_path.format(chunk_index=chunk, file_index=file)
            present = set(guarded(path, lambda path=path: pq.read_schema(path)).names)
            missing = (
                set(self._info.features)
                - present
                - {k for k, f in self._info.features.items() if f["dtype"] == "video"}
            )
            if missing:
                raise DataError(path, f"lacks {sorted(missing)}, which meta/info.json names. Restore one of the two.")
            table = read_parquet(path, list(self._info.numeric_keys))
            for key in self._info.numeric_keys:
                parts.setdefault(key, []).append(to_numpy(table[key], self._shape(key), path, key))
            self._data_files.append((path, rows))
            rows += table.num_rows
        self.columns: dict[str, np.ndarray] = {key: np.concatenate(arrays) for key, arrays in parts.items()}
        self._require_agreement(rows)

    def _shape(self, key: str) -> list[int]:
        """Shape of one value in memory: scalars lose their [1], but state and action stay vectors."""
        shape = self._info.features[key]["shape"]
        return [] if shape == [1] and key != layout.ACTION and not key.startswith("observation.") else shape

    def _require_agreement(self, rows: int) -> None:
        path = self.root / layout.INFO_PATH
        if not rows == self._info.total_frames == self.num_frames:
            raise DataError(
                path,
                f"says {self._info.total_frames} frames, meta/episodes adds up to {self.num_frames} and data/ holds "
                f"{rows}. The data set was copied or edited halfway: restore it from the original.",
            )
        episodes = self.columns.get("episode_index")
        if episodes is not None and not np.array_equal(
            episodes, np.repeat(np.arange(self.num_episodes), np.diff(self._starts))
        ):
            bad = int(np.flatnonzero(episodes != np.repeat(np.arange(self.num_episodes), np.diff(self._starts)))[0])
            raise DataError(
                self._data_file(bad), f"row {bad} belongs to episode {episodes[bad]}, but meta/episodes expects episode "
                f"{int(self.episode_of(bad))} there. Restore data/ and meta/ from the same copy."
            )  # fmt: skip
        tasks = self.columns.get("task_index")
        if tasks is not None and len(tasks) and int(tasks.max()) >= len(self._tasks):
            raise DataError(
                self.root / layout.TASKS_PATH,
                f"has {len(self._tasks)} tasks, but frames refer to task {int(tasks.max())}. Restore it from the original.",
            )

    def _source(self, key: str) -> FrameSource:
        if self._info.features[key]["dtype"] == "image":
            return ImageFrames(self.root, key, self._data_files, self._starts)
        template = self._info.video_path or layout.VIDEO_PATH
        if f"videos/{key}/from_timestamp" not in self._episodes:
            raise DataError(
                self.root / "meta" / "episodes",
                f"does not say where the videos of {key} are. Restore it from the original.",
            )
        files = [
            self.root / template.format(video_key=key, chunk_index=chunk, file_index=file)
            for chunk, file in zip(
                self._episodes[f"videos/{key}/chunk_index"], self._episodes[f"videos/{key}/file_index"], strict=True
            )
        ]
        frame = np.arange(self.num_frames) - np.repeat(self._starts[:-1], np.diff(self._starts))
        stamps = self.columns["timestamp"].astype(np.float64) if "timestamp" in self.columns else frame / self.fps
        begins = np.array(self._episodes[f"videos/{key}/from_timestamp"], np.float64)
        return VideoFrames(files, stamps + np.repeat(begins, np.diff(self._starts)), self._starts, self.fps)

    # small helpers

    def _key(self, camera: str) -> str:
        if camera not in self._keys:
            raise ValueError(f"{self.root} has no camera {camera!r}; it has {', '.join(self.cameras) or 'none'}.")
        return self._keys[camera]

    def _column(self, column: str) -> np.ndarray:
        if column not in self.columns:
            raise ValueError(f"{self.root} has no numeric column {column!r}; it has {', '.join(sorted(self.columns))}.")
        return self.columns[column]

    def _checked(self, rows: np.ndarray | int) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.num_frames):
            raise IndexError(
                f"{self.root} has rows 0 to {self.num_frames - 1}, not {int(rows.min())} to {int(rows.max())}."
            )
        return rows

    def _values(self, key: str, rows: np.ndarray) -> Any:
        """Values of a numeric or string column for the rows."""
        if key in self.columns:
            return self.columns[key][rows]
        if key not in self._strings:
            tables = [read_parquet(path, [key]) for path, _ in self._data_files]
            self._strings[key] = pa.concat_tables(tables)[key].combine_chunks()
        return self._strings[key].take(pa.array(rows)).to_pylist()

    def _finite_rows(self, column: str) -> np.ndarray:
        if column not in self._finite:
            values = self.columns[column].reshape(self.num_frames, -1)
            self._finite[column] = np.isfinite(values).all(1)
        return self._finite[column]

    def _require_finite(self, column: str, rows: np.ndarray, taken: np.ndarray) -> None:
        if self.columns[column].dtype.kind != "f":
            return
        finite = self._finite_rows(column)[taken]
        if not finite.all():
            sample, step = np.argwhere(~finite)[0]
            raise self._not_finite(column, int(taken[sample, step]), int(rows[sample]))

    def _not_finite(self, column: str, row: int, sample: int | None = None) -> DataError:
        episode = int(self.episode_of(row))
        frame = row - int(self._starts[episode])
        return DataError(
            self._data_file(row),
            f"{column} is not finite: {self.columns[column][row].tolist()}. "
            f"Repair the value, drop the episode, or pass --bad-samples quarantine.",
            row=row if sample is None else sample, episode=episode, frame=frame,
        )  # fmt: skip

    def _data_file(self, row: int) -> Path:
        return next(path for path, first in reversed(self._data_files) if row >= first)

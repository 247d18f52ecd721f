"""Reading the Parquet tables of a data set, and checking them against info.json."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from visuomotor.data.lerobot import layout
from visuomotor.data.lerobot.layout import DataError, Info

EPISODE_COLUMNS = ("episode_index", "length", "data/chunk_index", "data/file_index")


@dataclass(frozen=True, kw_only=True)
class Tables:
    """episodes: {column: one value an episode}; columns: {name: [n, ...]} numeric, of all frames.

    starts: int64[episodes + 1], first row of each episode; data_files: (file, its first row), ascending.
    """

    episodes: dict[str, list[Any]]
    columns: dict[str, np.ndarray]
    tasks: list[str]
    starts: np.ndarray
    data_files: list[tuple[Path, int]]

    def strings(self, column: str) -> pa.Array:
        """A string column of all frames."""
        parts = [read_parquet(path, [column])[column] for path, _ in self.data_files]
        joined = pa.chunked_array([chunk for part in parts for chunk in part.chunks], type=parts[0].type)
        return pc.cast(joined, pa.large_string()).combine_chunks()  # string offsets end at 2 GB

    def data_file(self, row: int) -> Path:
        return next(path for path, first in reversed(self.data_files) if row >= first)


def read_tables(root: Path, info: Info) -> Tables:
    """All tables of a data set; DataError when one is broken, or when they disagree."""
    episodes = _read_episodes(root, info)
    starts = np.concatenate([[0], np.cumsum(np.array(episodes["length"], np.int64))])
    columns, data_files, rows = _read_frames(root, info, episodes)
    tables = Tables(
        episodes=episodes, columns=columns, tasks=_read_tasks(root), starts=starts, data_files=data_files
    )  # fmt: skip
    _require_agreement(root, info, tables, rows)
    return tables


def _read_episodes(root: Path, info: Info) -> dict[str, list[Any]]:
    folder = root / "meta" / "episodes"
    paths = sorted(folder.rglob("*.parquet"))
    if not paths:
        raise DataError(folder, "holds no Parquet file with the episodes. Copy the data set again.")
    tables = []
    for path in paths:
        names = [n for n in parquet_names(path) if not n.startswith("stats/")]
        missing = [n for n in EPISODE_COLUMNS if n not in names]
        if missing:
            raise DataError(path, f"lacks the columns {missing} of format v3.0. Restore it from the original.")
        tables.append(read_parquet(path, names))
    table = pa.concat_tables(tables, promote_options="permissive").sort_by("episode_index")
    if table["episode_index"].to_pylist() != list(range(info.total_episodes)):
        raise DataError(
            root / layout.INFO_PATH,
            f"says {info.total_episodes} episodes, but meta/episodes lists {table.num_rows}. "
            f"The data set was copied or edited halfway: restore both from the original.",
        )
    return {name: table[name].to_pylist() for name in table.column_names}


def _read_frames(
    root: Path, info: Info, episodes: dict[str, list[Any]]
) -> tuple[dict[str, np.ndarray], list[tuple[Path, int]], int]:
    expected = {key for key, feature in info.features.items() if feature["dtype"] != "video"}
    data_files: list[tuple[Path, int]] = []
    parts: dict[str, list[np.ndarray]] = {key: [] for key in info.numeric_keys}
    rows = 0
    for chunk, file in dict.fromkeys(zip(episodes["data/chunk_index"], episodes["data/file_index"], strict=True)):
        path = root / info.data_path.format(chunk_index=chunk, file_index=file)
        missing = expected - set(parquet_names(path))
        if missing:
            raise DataError(path, f"lacks {sorted(missing)}, which meta/info.json names. Restore one of the two.")
        table = read_parquet(path, list(info.numeric_keys))
        for key, arrays in parts.items():
            arrays.append(to_numpy(table[key], _shape(info, key), path, key))
        data_files.append((path, rows))
        rows += table.num_rows
    return {key: np.concatenate(arrays) for key, arrays in parts.items()}, data_files, rows


def _shape(info: Info, key: str) -> list[int]:
    """Shape of one value in memory: scalars lose their [1], but state and action stay vectors."""
    shape = info.features[key]["shape"]
    return [] if shape == [1] and key != layout.ACTION and not key.startswith("observation.") else shape


def _require_agreement(root: Path, info: Info, tables: Tables, rows: int) -> None:
    if not rows == info.total_frames == tables.starts[-1]:
        raise DataError(
            root / layout.INFO_PATH,
            f"says {info.total_frames} frames, meta/episodes adds up to {tables.starts[-1]} and data/ holds {rows}. "
            f"The data set was copied or edited halfway: restore it from the original.",
        )
    found = tables.columns.get("episode_index")
    expected = np.repeat(np.arange(len(tables.starts) - 1), np.diff(tables.starts))
    if found is not None and not np.array_equal(found, expected):
        row = int(np.flatnonzero(found != expected)[0])
        raise DataError(
            tables.data_file(row),
            f"row {row} belongs to episode {found[row]}, but meta/episodes expects episode {expected[row]} there. "
            f"Restore data/ and meta/ from the same copy.",
        )
    tasks = tables.columns.get("task_index")
    if tables.tasks and tasks is not None and len(tasks) and int(tasks.max()) >= len(tables.tasks):
        raise DataError(
            root / layout.TASKS_PATH,
            f"has {len(tables.tasks)} tasks, but a frame names task {int(tasks.max())}. Restore it from the original.",
        )


def _read_tasks(root: Path) -> list[str]:
    """Task strings by task_index; empty when the file is absent (episodes name their tasks too)."""
    path = root / layout.TASKS_PATH
    if not path.exists():
        return []
    table = read_parquet(path)
    names = [n for n in table.column_names if n != "task_index"]
    if "task_index" not in table.column_names or not names:
        raise DataError(path, f"has columns {table.column_names}, expected task_index and the task. Restore the file.")
    column = next((n for n in ("__index_level_0__", "task") if n in names), names[0])
    tasks = dict(zip(table["task_index"].to_pylist(), table[column].to_pylist(), strict=True))
    return [tasks.get(i, "") for i in range(max(tasks, default=-1) + 1)]


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or raise DataError."""

    def read() -> pa.Table:
        with pq.ParquetFile(path) as file:
            return file.read(columns=columns)

    return guarded(path, read)


def parquet_names(path: Path) -> list[str]:
    """Column names of a Parquet file."""
    return guarded(path, lambda: pq.read_schema(path)).names


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Call `read`; what pyarrow raises on a missing or broken file becomes a DataError."""
    try:
        return read()
    except FileNotFoundError:
        raise DataError(path, "is missing. Copy the data set again.") from None
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0]
        raise DataError(
            path, f"is not a readable Parquet file ({first}). It is probably cut off: copy it again."
        ) from error


def to_numpy(column: pa.ChunkedArray, shape: list[int], path: Path, key: str) -> np.ndarray:
    """A numeric column as [n, *shape]; lists are flattened and checked against `shape`."""
    array = column.combine_chunks()
    rows = len(array)
    while isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray | pa.ExtensionArray):
        array = array.storage if isinstance(array, pa.ExtensionArray) else array.flatten()
    values = array.to_numpy(zero_copy_only=False)
    if values.size != rows * int(np.prod(shape)) or values.dtype == object:
        raise DataError(
            path,
            f"column {key} has {values.size} {array.type} values in {rows} rows, but meta/info.json gives it shape "
            f"{shape}. Some rows are empty or of another length: restore the file, or correct info.json.",
        )
    return np.ascontiguousarray(values.reshape(rows, *shape))

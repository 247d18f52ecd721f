"""A copy of a data set with one annotation more."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.atomic import whole_folder
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.lerobot import layout
from visuomotor.data.lerobot.dataset import Dataset
from visuomotor.data.lerobot.reading import guarded
from visuomotor.locks import FolderLock

__all__ = ["write_subtasks"]

COLUMN = layout.ANNOTATION_PREFIX + "subtask"
FEATURE: dict[str, Any] = {"dtype": layout.ANNOTATION_DTYPES["subtask"], "shape": [1], "names": None}


def write_subtasks(dataset: EpisodeSource, subtasks: Sequence[str], out: Path, *, break_lock: bool = False) -> Dataset:
    """Copy `dataset` to `out` with the sub-task of every frame; videos are linked where the disk allows it.

    Raises:
        FileExistsError: `out` is there. ValueError: the data set has sub-tasks already, or not one text a frame came.
        FolderInUse: another process or thread writes `out`; see `FolderLock`, also for `break_lock`.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"{dataset.root} is no LeRobot v3 folder, of which a copy with sub-tasks could be written.")
    if dataset.has("subtask"):
        raise ValueError(f"{dataset.root} has sub-tasks already; they are kept, nothing was written.")
    if len(subtasks) != dataset.num_frames:
        raise ValueError(f"{len(subtasks)} sub-tasks came for {dataset.num_frames} frames; give one for each.")
    with FolderLock(out, beside=True, break_lock=break_lock):
        if out.exists():
            raise FileExistsError(f"{out} exists; choose another folder.")
        with whole_folder(out) as folder:
            _copy(dataset, subtasks, folder)
    return Dataset(out)


def _copy(dataset: Dataset, subtasks: Sequence[str], folder: Path) -> None:
    for name in ("meta", "videos", layout.EMBODIMENT_PATH):
        source = dataset.root / name
        if source.is_dir():
            shutil.copytree(source, folder / name, copy_function=_link if name == "videos" else shutil.copy2)
        elif source.exists():
            shutil.copy2(source, folder / name)
    first = 0
    for path in dataset.data_files:
        first += _with_column(path, folder / path.relative_to(dataset.root), subtasks[first:])
    info = json.loads((folder / layout.INFO_PATH).read_text())
    info["features"][COLUMN] = FEATURE
    (folder / layout.INFO_PATH).write_text(json.dumps(info, indent=4) + "\n")


def _with_column(source: Path, target: Path, subtasks: Sequence[str]) -> int:
    """Copy one file of frames, row group by row group, with the first of `subtasks`; returns how many it took."""
    target.parent.mkdir(parents=True, exist_ok=True)
    first = 0
    with guarded(source, lambda: pq.ParquetFile(source)) as file:
        schema = file.schema_arrow.append(pa.field(COLUMN, pa.string()))
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        if "info" in described:
            described["info"]["features"][COLUMN] = {"dtype": "string", "_type": "Value"}
            schema = schema.with_metadata({**schema.metadata, b"huggingface": json.dumps(described).encode()})
        with pq.ParquetWriter(target, schema) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                texts = pa.array(subtasks[first : first + table.num_rows], pa.string())
                writer.write_table(table.append_column(COLUMN, texts).cast(schema), row_group_size=max(1, len(texts)))
                first += table.num_rows
    return first


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target

"""Writing the Parquet tables of a data set."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from visuomotor.data.lerobot import layout
from visuomotor.data.lerobot.layout import chunk_of

EPISODES_AT_ONCE = 500  # rows of the episode table held in memory
ARROW = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_(), "string": pa.string()}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class FrameTable:
    """data/chunk-*/file-*.parquet, one row group an episode."""

    def __init__(self, root: Path, features: dict[str, dict[str, Any]]) -> None:
        self._root, self._file = root, -1
        self._schema = pa.schema([(k, arrow_type(k, f)) for k, f in features.items() if f["dtype"] != "video"])
        self._schema = self._schema.with_metadata(_huggingface(features))
        self._images = {k for k, f in features.items() if f["dtype"] == "image"}
        self._writer: pq.ParquetWriter | None = None
        self._bytes = 0

    def write(self, columns: dict[str, np.ndarray], images: dict[str, list[dict[str, Any]]]) -> tuple[int, int]:
        """Write an episode and return (chunk index, file index)."""
        arrays = [self._array(f, columns, images) for f in self._schema]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        if self._writer and self._bytes > layout.DATA_FILE_MB * 2**20:
            self.close()
        if self._writer is None:
            self._file, self._bytes = self._file + 1, 0
            chunk, file = chunk_of(self._file)
            path = self._root / layout.DATA_PATH.format(chunk_index=chunk, file_index=file)
            path.parent.mkdir(parents=True, exist_ok=True)
            compression = {f.name: "none" if f.name in self._images else "snappy" for f in self._schema}
            compression |= {f"{k}.{part}": "none" for k in self._images for part in ("bytes", "path")}
            self._writer = pq.ParquetWriter(path, self._schema, compression=compression)  # type: ignore[arg-type]
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._bytes += table.nbytes
        return chunk_of(self._file)

    def _array(self, field: pa.Field, columns: dict[str, Any], images: dict[str, list[dict[str, Any]]]) -> pa.Array:
        if field.name in images:
            return pa.array(images[field.name], field.type)
        values = columns[field.name]
        if pa.types.is_fixed_size_list(field.type):
            return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), field.type.value_type), values.shape[1])
        return pa.array(values.reshape(len(values)), field.type)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None


class EpisodeTable:
    """meta/episodes/chunk-*/file-*.parquet, one row an episode."""

    def __init__(self, root: Path) -> None:
        self._root, self._rows, self._file = root, [], 0
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        if len(self._rows) >= EPISODES_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        if self._writer is None:
            path = self._root / layout.EPISODES_PATH.format(chunk_index=0, file_index=0)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._schema = table.schema
            self._writer = pq.ParquetWriter(path, table.schema, compression="snappy")
        self._writer.write_table(table)
        self._rows = []

    def close(self) -> None:
        self._flush()
        if self._writer:
            self._writer.close()
            self._writer = None


def write_tasks(root: Path, tasks: list[str]) -> None:
    """meta/tasks.parquet, with the metadata by which pandas makes the task its index."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "__index_level_0__": pa.array(tasks)})
    column = {"metadata": None, "pandas_type": "int64", "numpy_type": "int64"}
    names = [("task_index", "task_index", "int64", "int64"), (None, "__index_level_0__", "unicode", "object")]
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object",
             "metadata": {"encoding": "UTF-8"}}
        ],
        "columns": [
            column | {"name": name, "field_name": field, "pandas_type": pandas_type, "numpy_type": numpy_type}
            for name, field, pandas_type, numpy_type in names
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }  # fmt: skip
    path = root / layout.TASKS_PATH
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def arrow_type(key: str, feature: dict[str, Any]) -> pa.DataType:
    if feature["dtype"] == "image":
        return IMAGE
    value = ARROW[feature["dtype"]]
    return value if feature["shape"] == [1] else pa.list_(value, feature["shape"][0])


def _huggingface(features: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The schema metadata by which the `datasets` package (and the Hub's viewer) knows image columns."""
    described: dict[str, Any] = {}
    for key, feature in features.items():
        if feature["dtype"] == "image":
            described[key] = {"_type": "Image"}
        elif feature["dtype"] != "video":
            value = {"dtype": feature["dtype"], "_type": "Value"}
            width = feature["shape"][0]
            described[key] = value if width == 1 else {"feature": value, "length": width, "_type": "Sequence"}
    return {"huggingface": json.dumps({"info": {"features": described}})}

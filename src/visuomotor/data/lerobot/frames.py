"""Where a data set's images come from; PNG in the Parquet tables, each in its own row (mp4: `video_frames.py`)."""

import io
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from visuomotor.data.lerobot.layout import DataError
from visuomotor.data.lerobot.mismatch import Mismatch
from visuomotor.data.lerobot.reading import guarded

IMAGE_CACHE_BYTES = 2**29  # encoded row groups kept by one camera of an image data set


class FrameSource(Protocol):
    """One camera's images by row."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8[n, h, w, 3] of ascending rows; DataError with the row of the first that cannot be had."""
        ...

    def check(self) -> list[DataError]:
        """What is evidently wrong, without decoding."""
        ...

    def examine(self) -> list[Mismatch]:
        """Findings about how images are tied to rows; empty where a row holds its image."""
        ...


class ImageFrames:
    """Frames of one camera from PNG structs {bytes, path} in the data files; recent row groups stay in memory."""

    def __init__(self, root: Path, key: str, files: list[tuple[Path, int]], starts: np.ndarray) -> None:
        self._root, self._key, self._data, self._starts = root, key, files, starts
        self._groups: list[tuple[int, Path, int]] = []  # first row, file, row group
        for path, first in files:
            metadata = guarded(path, lambda path=path: pq.read_metadata(path))
            for group in range(metadata.num_row_groups):
                self._groups.append((first, path, group))
                first += metadata.row_group(group).num_rows
        self._firsts = np.array([g[0] for g in self._groups])
        self.__setstate__({})

    def read(self, rows: np.ndarray) -> np.ndarray:
        images: np.ndarray | None = None
        for index, row in enumerate(rows):
            image = self._image(int(row))
            if images is None:
                images = np.empty((len(rows), *image.shape), np.uint8)
            images[index] = image
        assert images is not None, "read needs at least one row"
        return images

    def _image(self, row: int) -> np.ndarray:
        group = int(np.searchsorted(self._firsts, row, side="right")) - 1
        first, path, _ = self._groups[group]
        try:
            cell = self._load(group)[row - first].as_py()
            source = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else self._root / cell["path"]
            with Image.open(source) as image:
                return np.asarray(image.convert("RGB"))
        except (OSError, TypeError, ValueError, SyntaxError) as error:
            episode = int(np.searchsorted(self._starts, row, side="right")) - 1
            raise DataError(
                path,
                f"the image of {self._key} cannot be decoded ({error}). "
                f"Restore the file, or pass --bad-samples quarantine.",
                row=row, episode=episode, frame=row - int(self._starts[episode]),
            ) from error  # fmt: skip

    def _load(self, group: int) -> Any:
        with self._lock:
            if group not in self._cache:
                _, path, number = self._groups[group]
                table = guarded(path, lambda: pq.ParquetFile(path).read_row_group(number, columns=[self._key]))
                self._cache[group] = table[self._key].combine_chunks()
                while len(self._cache) > 1 and sum(a.nbytes for a in self._cache.values()) > IMAGE_CACHE_BYTES:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]

    def check(self) -> list[DataError]:
        return []

    def examine(self) -> list[Mismatch]:
        return []

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()

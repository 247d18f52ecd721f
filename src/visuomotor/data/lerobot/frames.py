"""Where a data set's images come from: mp4 files, or PNG in the Parquet tables."""

import io
import threading
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from visuomotor.data.lerobot.layout import DataError
from visuomotor.data.lerobot.reading import guarded
from visuomotor.data.lerobot.video import DecoderPool

IMAGE_CACHE_BYTES = 2**29  # encoded row groups kept by one camera of an image data set


class FrameSource(Protocol):
    """One camera's images by row."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        """uint8[n, h, w, 3] of ascending rows; DataError with the row of the first that cannot be had."""
        ...

    def check(self) -> list[DataError]:
        """What is evidently wrong, without decoding."""
        ...


class VideoFrames:
    """Frames of one camera from its mp4 files. `files`: one an episode; `seconds`: each row's time in its file."""

    def __init__(self, files: list[Path], seconds: np.ndarray, starts: np.ndarray, fps: float) -> None:
        self._files, self._seconds, self._starts = files, seconds, starts
        self._pool = DecoderPool(fps)

    def read(self, rows: np.ndarray) -> np.ndarray:
        images: np.ndarray | None = None
        done = 0
        episodes = np.searchsorted(self._starts, rows, side="right") - 1
        files = [self._files[e] for e in episodes]
        for begin, end in _runs(files):
            path = files[begin]
            try:
                for image in self._pool.get(path).read(self._seconds[rows[begin:end]]):
                    if images is None:
                        images = np.empty((len(rows), *image.shape), np.uint8)
                    images[done] = image
                    done += 1
            except DataError as error:
                self._fail(path, int(rows[done]), error.message, error)
            except (OSError, LookupError, ValueError) as error:
                self._pool.drop(path)
                message = (
                    f"the frame cannot be decoded ({error}). Copy the video again, or pass --bad-samples quarantine."
                )
                self._fail(path, int(rows[done]), message, error)
        assert images is not None, "read needs at least one row"
        return images

    def _fail(self, path: Path, row: int, message: str, cause: Exception) -> None:
        episode = int(np.searchsorted(self._starts, row, side="right")) - 1
        frame = row - int(self._starts[episode])
        raise DataError(path, message, row=row, episode=episode, frame=frame) from cause

    def check(self) -> list[DataError]:
        found = []
        for episode, path in enumerate(self._files):
            row = int(self._starts[episode])
            if not path.exists():
                message = "is missing. Copy the video again from where the data set came from."
                found.append(DataError(path, message, row=row, episode=episode))
        return found


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

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_cache", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cache: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()


def _runs(files: list[Path]) -> list[tuple[int, int]]:
    """Ranges of equal neighbours."""
    edges = [
        0,
        *(i for i in range(1, len(files)) if files[i] is not files[i - 1] and files[i] != files[i - 1]),
        len(files),
    ]
    return [(a, b) for a, b in pairwise(edges) if b > a]

"""Frames decoded once into one memory-mapped uint8 array a camera, at the size that the model wants."""

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visuomotor.data.lerobot.layout import DataError

if TYPE_CHECKING:
    from visuomotor.data.lerobot.dataset import Dataset

logger = logging.getLogger(__name__)
BLOCK = 128  # frames decoded at once


class MemmapFrames:
    """One camera from a cache. `bad`: {row: the sentence that says why it could not be decoded}."""

    def __init__(self, path: Path, shape: tuple[int, int, int, int], bad: dict[int, str], source: Path) -> None:
        self._path, self._shape, self._bad, self._source = path, shape, bad, source
        self._map: np.ndarray | None = None

    def read(self, rows: np.ndarray) -> np.ndarray:
        for row in rows if self._bad else ():
            if int(row) in self._bad:
                raise DataError(self._source, self._bad[int(row)], row=int(row))
        if self._map is None:
            self._map = np.memmap(self._path, np.uint8, "r", shape=self._shape)
        return self._map[rows]

    def check(self) -> list[DataError]:
        return [DataError(self._source, message, row=row) for row, message in self._bad.items()]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}  # a pickled memory map would carry the pixels


def open_cache(dataset: "Dataset", size: tuple[int, int] | None, folder: Path) -> dict[str, MemmapFrames]:
    """The frame sources of a cache below `folder`, built when it is not there yet. `size` is (height, width)."""
    name = dataset.hash()[:24] + ("" if size is None else f"-{size[0]}x{size[1]}")
    home = folder / name
    if (home / "cache.json").exists():
        facts = json.loads((home / "cache.json").read_text())
        if _intact(home, facts, dataset):
            return _sources(home, facts, dataset)
        logger.warning("%s does not hold what its cache.json says; building it again", home)
        shutil.rmtree(home)
    folder.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
    try:
        facts = _build(dataset, size, partial)
        partial.chmod(0o755)
        if not home.exists():  # else another process was faster
            partial.rename(home)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _sources(home, facts, dataset)


def _build(dataset: "Dataset", size: tuple[int, int] | None, folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"hash": dataset.hash(), "cameras": {}}
    for number, camera in enumerate(dataset.cameras):
        shape, bad = _build_camera(dataset, camera, size, folder / f"{number}.u8")
        if bad:
            logger.warning(
                "%d frames of camera %s cannot be decoded; the first: %s", len(bad), camera, min(bad.items())
            )
        facts["cameras"][camera] = {"file": f"{number}.u8", "shape": shape, "bad": bad}
    (folder / "cache.json").write_text(json.dumps(facts))
    return facts


def _build_camera(
    dataset: "Dataset", camera: str, size: tuple[int, int] | None, path: Path
) -> tuple[list[int], dict[str, str]]:
    bad: dict[str, str] = {}
    pixels: np.ndarray | None = None
    for start in range(0, dataset.num_frames, BLOCK):
        rows = np.arange(start, min(start + BLOCK, dataset.num_frames))
        for row, image in _readable(dataset, camera, rows, bad):
            image = image if size is None else _resize(image, size)
            if pixels is None:
                pixels = np.memmap(path, np.uint8, "w+", shape=(dataset.num_frames, *image.shape))
            pixels[row] = image
    if pixels is None:
        raise DataError(dataset.root, f"no frame of camera {camera} can be decoded. Copy the data set again.")
    pixels.flush()
    return list(pixels.shape), bad


def _readable(dataset: "Dataset", camera: str, rows: np.ndarray, bad: dict[str, str]) -> list[tuple[int, np.ndarray]]:
    """The rows that can be decoded, with their images; the others go into `bad`."""
    try:
        return list(zip(rows.tolist(), dataset.frames(camera, rows), strict=True))
    except DataError:
        pairs = []
        for row in rows:
            try:
                pairs.append((int(row), dataset.frames(camera, row)[0]))
            except DataError as error:
                bad[str(row)] = str(error)
        return pairs


def _resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if image.shape[:2] == tuple(size):
        return image
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _intact(home: Path, facts: dict[str, Any], dataset: "Dataset") -> bool:
    cameras = facts.get("cameras", {})
    files = [(home / c["file"], int(np.prod(c["shape"]))) for c in cameras.values()]
    return (
        facts.get("hash") == dataset.hash()
        and list(cameras) == list(dataset.cameras)
        and all(path.exists() and path.stat().st_size == count for path, count in files)
    )


def _sources(home: Path, facts: dict[str, Any], dataset: "Dataset") -> dict[str, MemmapFrames]:
    return {
        camera: MemmapFrames(
            home / c["file"], tuple(c["shape"]), {int(k): v for k, v in c["bad"].items()}, dataset.root
        )
        for camera, c in facts["cameras"].items()
    }

"""Frames decoded once into one memory-mapped uint8 array a camera, at the size that the model wants."""

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visuomotor.data.images import fit
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
    """Write the frames one after the other (not through a map: a full disk must be an OSError, not a crash)."""
    bad: dict[str, str] = {}
    shape: tuple[int, ...] = (*(size or dataset.image_size(camera)), 3)
    with path.open("wb") as file:
        for start in range(0, dataset.num_frames, BLOCK):
            rows = np.arange(start, min(start + BLOCK, dataset.num_frames))
            images = _readable(dataset, camera, rows, bad)
            for row in rows.tolist():
                image = np.zeros(shape, np.uint8) if row not in images else _resize(images[row], size)
                if image.shape != shape:
                    message = f"camera {camera} has an image of {image.shape}, but meta/info.json says {shape}."
                    raise DataError(dataset.root, f"{message} Restore one of the two.", row=row)
                file.write(np.ascontiguousarray(image).data)
    return [dataset.num_frames, *shape], bad


def _readable(dataset: "Dataset", camera: str, rows: np.ndarray, bad: dict[str, str]) -> dict[int, np.ndarray]:
    """{row: image} of the rows that can be decoded; why the others cannot goes into `bad`."""
    try:
        return dict(zip(rows.tolist(), dataset.frames(camera, rows), strict=True))
    except DataError:
        images = {}
        for row in rows.tolist():
            try:
                images[row] = dataset.frames(camera, np.array([row]))[0]
            except DataError as error:
                bad[str(row)] = str(error)
        return images


def _resize(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or image.shape[:2] == tuple(size):
        return image
    if size[0] == size[1]:
        return fit(image, size[0])  # as at inference
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

"""Frames decoded once into one memory-mapped uint8 array a camera, at the size that the model wants."""

import errno
import json
import logging
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from visuomotor.data.images import fit
from visuomotor.data.lerobot.layout import DataError
from visuomotor.data.lerobot.mismatch import Mismatch

logger = logging.getLogger(__name__)
BLOCK = 128  # frames decoded at once
MATCHING = 2  # version of the rules that tie frames to rows; caches made by other rules are built again


class Decoded(Protocol):
    """A data set, as far as its frames are read."""

    root: Path
    cameras: tuple[str, ...]

    @property
    def num_frames(self) -> int: ...
    def hash(self) -> str: ...
    def image_size(self, camera: str) -> tuple[int, int]: ...
    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray: ...


class MemmapFrames:
    """One camera from a cache. `bad`: {row: the error that decoding it gave}."""

    def __init__(self, path: Path, shape: tuple[int, ...], bad: dict[int, DataError]) -> None:
        self._path, self._shape, self._bad = path, shape, bad
        self._map: np.ndarray | None = None

    def read(self, rows: np.ndarray) -> np.ndarray:
        for row in rows.tolist() if self._bad else ():
            if row in self._bad:
                raise self._bad[row]
        if self._map is None:
            self._map = np.asarray(np.memmap(self._path, np.uint8, "r", shape=self._shape))
        return self._map[rows]

    def check(self) -> list[DataError]:
        return list(self._bad.values())

    def examine(self) -> list[Mismatch]:
        return []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None}  # a pickled memory map would carry the pixels


def open_cache(dataset: Decoded, size: tuple[int, int] | None, folder: Path) -> dict[str, MemmapFrames]:
    """The frame sources of a cache below `folder`, built when it is not there yet. `size` is (height, width).

    Processes that share `folder` need no lock: each builds in a folder of its own, and the first intact cache stays.
    """
    name = dataset.hash()[:24] + ("" if size is None else f"-{size[0]}x{size[1]}")
    home = folder / name
    facts = _usable(home, dataset)
    if facts is None:
        if home.exists():
            logger.warning("%s does not hold what its cache.json or the data set says; building it again", home)
        folder.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder))
        try:
            facts = _build(dataset, size, partial)
            partial.chmod(0o755)  # mkdtemp's folders are private
            facts = _put(partial, home, dataset) or facts
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return _sources(home, dataset.root, facts)


def _put(partial: Path, home: Path, dataset: Decoded) -> dict[str, Any] | None:
    """Give a finished cache its name, or return the facts of another process's, which was faster.

    A damaged cache moves aside only now: others may read it, or may have replaced it by an intact one meanwhile.
    """
    while True:
        try:
            partial.rename(home)
            return None
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        facts = _usable(home, dataset)
        if facts is not None:
            return facts
        aside = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
        with suppress(FileNotFoundError):  # another process has moved it
            home.rename(aside / "damaged")
        shutil.rmtree(aside, ignore_errors=True)


def _usable(home: Path, dataset: Decoded) -> dict[str, Any] | None:
    """The facts of a cache that can be read as it is; None if it has to be built."""
    facts = _intact(home, dataset)
    return None if facts is None or _repaired(dataset, facts) else facts


def _build(dataset: Decoded, size: tuple[int, int] | None, folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"hash": dataset.hash(), "matching": MATCHING, "cameras": {}}
    for number, camera in enumerate(dataset.cameras):
        shape, bad = _build_camera(dataset, camera, size, folder / f"{number}.u8")
        if bad:
            logger.warning("%d frames of camera %s cannot be decoded; the first: %s", len(bad), camera, bad[0])
        entries = [(_inside(e.path, dataset.root), e.message, e.row, e.episode, e.frame) for e in bad]
        facts["cameras"][camera] = {"file": f"{number}.u8", "shape": shape, "bad": entries}
    (folder / "cache.json").write_text(json.dumps(facts))
    return facts


def _build_camera(
    dataset: Decoded, camera: str, size: tuple[int, int] | None, path: Path
) -> tuple[list[int], list[DataError]]:
    """Write the frames one after the other (not through a map: a full disk must be an OSError, not a crash)."""
    bad: list[DataError] = []
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


def _readable(dataset: Decoded, camera: str, rows: np.ndarray, bad: list[DataError]) -> dict[int, np.ndarray]:
    """{row: image} of the rows that can be decoded; why the others cannot goes into `bad`."""
    try:
        return dict(zip(rows.tolist(), dataset.frames(camera, rows), strict=True))
    except DataError:
        images = {}
        for row in rows.tolist():
            try:
                images[row] = dataset.frames(camera, np.array([row]))[0]
            except DataError as error:
                bad.append(error)
        return images


def _resize(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    if size is None or image.shape[:2] == tuple(size):
        return image
    if size[0] == size[1]:
        return fit(image, size[0])  # as at inference
    return np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _intact(home: Path, dataset: Decoded) -> dict[str, Any] | None:
    """What cache.json says, or None when it is damaged, of other data, or disagrees with the files."""
    try:
        facts = json.loads((home / "cache.json").read_text())
        sizes = [(home / c["file"]).stat().st_size == np.prod(c["shape"]) for c in facts["cameras"].values()]
        same = facts["hash"] == dataset.hash() and facts["matching"] == MATCHING
        same = same and list(facts["cameras"]) == list(dataset.cameras)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if same and all(sizes) else None


def _repaired(dataset: Decoded, facts: dict[str, Any]) -> bool:
    """Whether a camera's first frame that could not be decoded can be now: the hash knows videos by their size only."""
    for camera, c in facts["cameras"].items():
        rows = [row for _, _, row, _, _ in c["bad"][:1]]
        if rows and _readable(dataset, camera, np.array(rows), []):
            return True
    return False


def _inside(path: Path, root: Path) -> str:
    """The path from the data set's folder on, which may be copied elsewhere with the same hash."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _sources(home: Path, root: Path, facts: dict[str, Any]) -> dict[str, MemmapFrames]:
    sources = {}
    for camera, c in facts["cameras"].items():
        bad = {
            row: DataError(root / path, message, row=row, episode=episode, frame=frame)
            for path, message, row, episode, frame in c["bad"]
        }
        sources[camera] = MemmapFrames(home / c["file"], tuple(c["shape"]), bad)
    return sources

"""A data format that the library does not know: a folder for each episode, with numbers.csv and JPEG files.

robot.json                    {"arm": "two-joint", "rate": 10}
episode-000/instruction.txt   put the cup on the shelf
episode-000/numbers.csv       q0,q1,target0,target1  (radians; one line a frame)
episode-000/front-0000.jpg    one picture a frame

visuomotor train own-data --data tests/strangers/csv_jpeg.py:Recordings:FOLDER
"""

import csv
import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from visuomotor.contract import Annotation
from visuomotor.data.episodes import EpisodeSource
from visuomotor.embodiment import Camera, Component, Embodiment

JOINTS = ("q0", "q1")
CAMERA = "front"


class Recordings(EpisodeSource):
    """Recordings below a folder."""

    cameras = (CAMERA,)

    def __init__(self, folder: str) -> None:
        self.root = Path(folder)
        facts = json.loads((self.root / "robot.json").read_text())
        self.fps = float(facts["rate"])
        self._folders = sorted(self.root.glob("episode-*"))
        numbers = [_numbers(path / "numbers.csv") for path in self._folders]
        self.starts = np.cumsum([0, *(len(part) for part in numbers)])
        table = np.concatenate(numbers)
        self.columns = {"observation.state": table[:, :2], "action": table[:, 2:]}
        self._sentences = [(path / "instruction.txt").read_text().strip() for path in self._folders]
        self._arm = str(facts["arm"])

    @cached_property
    def embodiment(self) -> Embodiment:  # type: ignore[override]
        """Two joints that are commanded as they are measured, and one camera."""
        height, width = self.frames(CAMERA, np.zeros(1, np.int64)).shape[1:3]
        joints = Component(name="arm", dims=JOINTS, kind="joint", unit="rad")
        return Embodiment(
            name=self._arm,
            control_hz=self.fps,
            cameras=(Camera(name=CAMERA, role=CAMERA, height=height, width=width),),
            state=(joints,),
            action=(joints,),
        )

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        return np.stack([_picture(self._path(camera, int(row))) for row in rows])

    def instructions(self, rows: np.ndarray) -> list[str]:
        return [self._sentences[episode] for episode in self.episode_of(rows).tolist()]

    def has(self, annotation: str) -> bool:
        return annotation == "subtask"

    def annotations(self, rows: np.ndarray) -> list[Annotation]:
        return [_annotation(sentence) for sentence in self.instructions(rows)]

    def hash(self) -> str:
        digest = hashlib.sha256()
        for path in sorted(self.root.rglob("*.*")):
            digest.update(path.relative_to(self.root).as_posix().encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _path(self, camera: str, row: int) -> Path:
        episode = int(self.episode_of(row))
        return self._folders[episode] / f"{camera}-{row - int(self.starts[episode]):04d}.jpg"


def _numbers(path: Path) -> np.ndarray:
    with path.open() as file:
        lines = list(csv.reader(file))
    return np.array(lines[1:], dtype=np.float32)


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _annotation(sentence: str) -> Annotation:
    return Annotation(
        subtask=f"begin to {sentence}", boxes={}, point={}, progress=0.0, gripper_switch=False, contact=False
    )


def write(folder: Path, *, episodes: int = 3, frames: int = 12, side: int = 32) -> Path:
    """An example, drawn at random."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / "robot.json").write_text(json.dumps({"arm": "two-joint", "rate": 10}))
    for episode in range(episodes):
        home = folder / f"episode-{episode:03d}"
        home.mkdir()
        (home / "instruction.txt").write_text("put the cup on the shelf\n")
        steps = np.cumsum(rng.normal(0, 0.1, (frames, 2)), axis=0)
        lines = [",".join(map(str, [*now, *later])) for now, later in zip(steps, np.roll(steps, -1, 0), strict=True)]
        (home / "numbers.csv").write_text("q0,q1,target0,target1\n" + "\n".join(lines) + "\n")
        for frame in range(frames):
            pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / f"{CAMERA}-{frame:04d}.jpg")
    return folder

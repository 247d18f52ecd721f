"""A small in-memory data set."""

from pathlib import Path

import numpy as np

from visuomotor.contract import Annotation, Observation
from visuomotor.data.episodes import EpisodeSource
from visuomotor.embodiment import Camera, Component, Embodiment

SENTENCES = ("put the red block into the left bowl", "push the green disc behind the blue cup", "open the drawer")
CORPUS = (*SENTENCES, "reach for the red block", "Where is the red block?", "What is left of the green disc?")


def embodiment(size: int = 16, roles: tuple[str, ...] = ("scene", "wrist"), name: str = "arm") -> Embodiment:
    xyz = ("x", "y", "z")
    return Embodiment(
        name=name,
        control_hz=10.0,
        cameras=tuple(Camera(name=f"{r}_camera", role=r, height=size, width=size) for r in roles),
        state=(
            Component(name="position", dims=xyz, kind="position", unit="m"),
            Component(name="joints", dims=("j0", "j1"), kind="joint", unit="rad", normalization="mean_std"),
            Component(name="gripper", dims=("width",), kind="gripper", unit="m", opened=0.08, closed=0.0),
        ),
        action=(
            Component(name="position", dims=xyz, kind="position", unit="m"),
            Component(
                name="joints", dims=("j0", "j1"), kind="joint", unit="rad", low=(-3.1, -3.1), high=(3.1, 3.1),
                normalization="limits",
            ),
            Component(
                name="gripper", dims=("width",), kind="gripper", unit="m", opened=1.0, closed=-1.0, normalization="none"
            ),
        ),
    )  # fmt: skip


class FakeDataset(EpisodeSource):
    """Episodes of 20, 21, 22, ... frames; images hold the global row number in every pixel of channel 0."""

    def __init__(self, episodes: int = 6, seed: int = 0, robot: Embodiment | None = None, size: int = 16) -> None:
        rng = np.random.default_rng(seed)
        self.root = Path(f"fake-{seed}")
        self.embodiment = robot or embodiment(size)
        self.fps = self.embodiment.control_hz
        self.cameras = tuple(c.name for c in self.embodiment.cameras)
        self.lengths = [20 + e for e in range(episodes)]
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.size = size
        action = rng.uniform(-1, 1, (self.num_frames, self.embodiment.action_dim)).astype(np.float32)
        self.columns = {
            "observation.state": rng.uniform(-1, 1, (self.num_frames, self.embodiment.state_dim)).astype(np.float32),
            "action": action,
        }
        self.broken_rows: set[int] = set()
        self.scenes = False

    def has(self, annotation: str) -> bool:
        return True

    def instructions(self, rows: np.ndarray) -> list[str]:
        episodes = np.searchsorted(self.starts, rows, side="right") - 1
        return [SENTENCES[e % len(SENTENCES)] for e in episodes]

    def hash(self) -> str:
        return f"hash of {self.root}"

    def info(self, episode: int) -> dict[str, object]:
        return {"kind": "scenes"} if self.scenes else {"success": True}

    def annotations(self, rows: np.ndarray) -> list[Annotation]:
        return [self.annotation(int(r)) for r in rows]

    def annotation(self, row: int) -> Annotation:
        x = 100 + row % 50
        episode = int(np.searchsorted(self.starts, row, side="right")) - 1
        progress = (row - int(self.starts[episode])) / self.lengths[episode]
        boxes = {
            "red block": (x, 200, x + 60, 260),
            "green disc": (600, 210, 660, 270),
            "left bowl": (300, 500, 420, 600),
        }
        return Annotation(
            subtask="reach for the red block", boxes={c: boxes for c in self.cameras},
            point={c: (x, 300) for c in self.cameras}, progress=progress, gripper_switch=False, contact=False,
        )  # fmt: skip

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        if self.broken_rows & set(rows.tolist()):
            raise OSError("the video is truncated")
        images = np.zeros((len(rows), self.size, self.size, 3), dtype=np.uint8)
        images[..., 0] = (rows % 256)[:, None, None]
        return images

    def observation(self, row: int, instruction: str = SENTENCES[0]) -> Observation:
        return Observation(
            images={c: self.frames(c, np.array([row]))[0] for c in self.cameras},
            state=self.columns["observation.state"][row],
            instruction=instruction,
        )

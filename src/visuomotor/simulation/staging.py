"""Where a collection lies until its data set is assembled: one folder per finished attempt, complete or absent.

plan.json           what is being collected
world.json          embodiment and versions, as the workers saw them
attempts/000012/    record.json; of a success also its frames: arrays.npz, rest.json and an mp4 a camera
partial/            attempts being written
dataset/            the data set being assembled
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.codec import decode, encode
from visuomotor.contract import Annotation, Episode, Scenario
from visuomotor.data.lerobot.video import encode_video


@dataclass(frozen=True, kw_only=True)
class Video:
    """How images are encoded: frames a second, and the codec (h264 or av1)."""

    fps: float
    codec: str


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One finished attempt at scenario number `index`; `frames` is 0 when it failed."""

    index: int
    scenario: Scenario
    success: bool
    frames: int

    @property
    def task(self) -> str:
        """What counts are grouped by: the scenario's kind of task where it names one."""
        return str(self.scenario.options.get("kind", self.scenario.task))


class Staging:
    """The folder of an unfinished collection. Several processes may write different attempts at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, plan: dict[str, Any]) -> None:
        """Make the folder for a new collection."""
        (self.root / "attempts").mkdir(parents=True)
        write_json(self.root / "plan.json", plan)

    def plan(self) -> dict[str, Any]:
        """The plan that the folder was made for; {} when there is no usable folder."""
        path = self.root / "plan.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def describe(self, world: dict[str, Any]) -> None:
        """Keep what a worker knows about the world: embodiment, render quality, versions."""
        write_json(self.root / "world.json", world)

    def world(self) -> dict[str, Any]:
        """What the workers described."""
        return json.loads((self.root / "world.json").read_text())

    def write(self, index: int, scenario: Scenario, episode: Episode | None, video: Video | None = None) -> Attempt:
        """Keep an attempt (episode None: it failed); it appears whole, by renaming its folder, or not at all.

        With `video` the images are encoded here, otherwise kept as they are.
        """
        final = self._folder(index)
        partial = self.root / "partial" / f"{index:06d}-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        attempt = Attempt(
            index=index,
            scenario=scenario,
            success=episode is not None,
            frames=len(episode.actions) if episode is not None else 0,
        )
        if episode is not None:
            _write_episode(partial, episode, video)
        (partial / "record.json").write_text(json.dumps(encode(attempt)))
        try:
            partial.rename(final)
        except OSError:
            # An earlier run's worker may have outlived its parent and finished the same attempt: same content.
            if not final.exists():
                raise
            shutil.rmtree(partial)
        return attempt

    def attempts(self) -> dict[int, Attempt]:
        """Every finished attempt by scenario number."""
        paths = sorted((self.root / "attempts").glob("*/record.json"))
        attempts = (decode(Attempt, json.loads(path.read_text())) for path in paths)
        return {attempt.index: attempt for attempt in attempts}

    def read(self, index: int) -> tuple[Episode, dict[str, Path]]:
        """The episode of a successful attempt, and {camera: mp4} of the cameras that it holds no images of."""
        folder = self._folder(index)
        rest = json.loads((folder / "rest.json").read_text())
        with np.load(folder / "arrays.npz") as arrays:
            images = {
                key.removeprefix("images."): np.cumsum(arrays[key], axis=0, dtype=np.uint8)
                for key in arrays.files
                if key.startswith("images.")
            }
            episode = Episode(
                instruction=rest["instruction"],
                state=arrays["state"],
                actions=arrays["actions"],
                images=images,
                annotations=decode(tuple[Annotation, ...], rest["annotations"], "annotations"),
                info=rest["info"],
            )
        return episode, {camera: folder / name for camera, name in rest["videos"].items()}

    def remove(self) -> None:
        """Delete the folder with all that it holds; without its plan a half deleted one counts as none."""
        (self.root / "plan.json").unlink(missing_ok=True)
        shutil.rmtree(self.root, ignore_errors=True)

    def _folder(self, index: int) -> Path:
        return self.root / "attempts" / f"{index:06d}"


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write JSON so that the file is complete or absent."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(data, indent=2) + "\n")
    partial.replace(path)


def _write_episode(folder: Path, episode: Episode, video: Video | None) -> None:
    arrays: dict[str, Any] = {"state": episode.state, "actions": episode.actions}
    videos: dict[str, str] = {}
    for number, (camera, frames) in enumerate(episode.images.items()):
        if video is not None:
            videos[camera] = f"{number}.mp4"
            encode_video(folder / videos[camera], frames, fps=video.fps, codec=video.codec)
        else:
            # Neighbouring frames hardly differ, so their differences modulo 256 compress well, and losslessly.
            arrays[f"images.{camera}"] = np.concatenate([frames[:1], frames[1:] - frames[:-1]])
    np.savez_compressed(folder / "arrays.npz", **arrays)
    rest = {
        "instruction": episode.instruction,
        "info": episode.info,
        "annotations": encode(episode.annotations),
        "videos": videos,
    }
    (folder / "rest.json").write_text(json.dumps(rest))

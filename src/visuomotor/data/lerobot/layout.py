"""Where LeRobotDataset v3.0 keeps things, what info.json says, and the one error of this package.

    meta/info.json, meta/stats.json, meta/tasks.parquet, meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet            frames of many episodes, one row group an episode
    videos/<key>/chunk-000/file-000.mp4        frames of many episodes, one after the other
    embodiment.json                            ours: which robot this is (visuomotor.embodiment)

Annotations are ordinary frame columns: `annotation.subtask` (string), `annotation.boxes`, `annotation.trace` and
`annotation.point` (JSON strings, coordinates 0-1000 of the stored image), `annotation.progress` (float32),
`annotation.gripper_switch` and `annotation.contact` (bool). `Episode.info` is the column `info` (a JSON string) of the
episode table. LeRobot itself ignores what it does not know.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CODEBASE_VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_PATH = "meta/tasks.parquet"
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
EMBODIMENT_PATH = "embodiment.json"
IMAGE_PREFIX = "observation.images."
ANNOTATION_PREFIX = "annotation."
STATE, ACTION = "observation.state", "action"
CHUNK_FILES = 1000
DATA_FILE_MB = 100
VIDEO_FILE_MB = 200

DEFAULT_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
}
ANNOTATION_DTYPES = {
    "subtask": "string",
    "boxes": "string",
    "trace": "string",
    "point": "string",
    "progress": "float32",
    "gripper_switch": "bool",
    "contact": "bool",
}


class DataError(ValueError):
    """Something on disk is broken. `row` (global frame) and `episode` are set when a sample is to blame, not the set.

    A loader may catch it and quarantine `row`; the sentence names the file, the place and what to do.
    """

    def __init__(
        self, path: Path, message: str, *, row: int | None = None, episode: int | None = None, frame: int | None = None
    ) -> None:
        where = "" if episode is None else f" (episode {episode}" + ("" if frame is None else f", frame {frame}") + ")"
        super().__init__(f"{path}{where}: {message}")
        self.path, self.row, self.episode, self.frame, self.message = path, row, episode, frame, message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_error, (self.path, self.message, self.row, self.episode, self.frame))


def _rebuild_error(path: Path, message: str, row: int | None, episode: int | None, frame: int | None) -> DataError:
    return DataError(path, message, row=row, episode=episode, frame=frame)


@dataclass(frozen=True, kw_only=True)
class Info:
    """What info.json says; `features` is {column: {dtype, shape, names, ...}}."""

    fps: float
    total_episodes: int
    total_frames: int
    features: dict[str, dict[str, Any]]
    data_path: str = DATA_PATH
    video_path: str | None = VIDEO_PATH
    robot_type: str | None = None

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Columns with colour images, stored as video or as PNG."""
        return tuple(k for k, f in self.features.items() if f["dtype"] in ("image", "video") and not _is_depth(f))

    @property
    def numeric_keys(self) -> tuple[str, ...]:
        """Columns of numbers; dtypes that format v3.0 does not know are left alone."""
        return tuple(k for k, f in self.features.items() if f["dtype"].startswith(("float", "int", "uint", "bool")))


def _is_depth(feature: dict[str, Any]) -> bool:
    details = feature.get("info") or feature.get("video_info") or {}
    return bool(details.get("video.is_depth_map") or details.get("is_depth_map"))


def camera_name(key: str) -> str:
    """`observation.images.scene` -> `scene`; a key of another form is its own camera name."""
    return key.removeprefix(IMAGE_PREFIX)


def read_info(root: Path) -> Info:
    """Read and check meta/info.json; an older format version is refused with the name of its converter."""
    path = root / INFO_PATH
    if not path.exists():
        raise DataError(
            path,
            f"is missing, so {root} is not a LeRobot data set (or its writer was interrupted). "
            f"Give the folder that holds meta/, data/ and videos/.",
        )
    try:
        data = json.loads(path.read_text())
        version = str(data["codebase_version"])
        if not version.startswith("v3"):
            raise DataError(path, _old_version(version))
        return Info(
            fps=float(data["fps"]),
            total_episodes=int(data["total_episodes"]),
            total_frames=int(data["total_frames"]),
            features={k: {**f, "shape": list(f["shape"])} for k, f in data["features"].items()},
            data_path=data.get("data_path") or DATA_PATH,
            video_path=data.get("video_path"),
            robot_type=data.get("robot_type"),
        )
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            path, f"cannot be read as a v3.0 info.json ({error!r}). Restore it from the original."
        ) from error


def _old_version(version: str) -> str:
    first = "" if version.startswith("v2.1") else "bring it to v2.1 first (with lerobot 0.3), then run "
    return (
        f"says format {version}, but only v3.0 is read. Convert it with the lerobot package 0.4 or newer: {first}"
        f"python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=NAME --root=FOLDER --push-to-hub=false."
    )


def chunk_of(file: int) -> tuple[int, int]:
    """Running file number -> (chunk index, file index within the chunk)."""
    return divmod(file, CHUNK_FILES)

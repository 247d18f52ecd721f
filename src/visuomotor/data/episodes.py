"""EpisodeSource: a data set of episodes, whatever its format on disk."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from visuomotor.contract import Annotation, Embodiment

__all__ = ["SUPPLIED", "EpisodeSource"]

# Members without a default, which a format supplies.
SUPPLIED = ("root", "columns", "starts", "fps", "cameras", "embodiment", "frames", "instructions", "hash")


class EpisodeSource(Protocol):
    """A data set, read-only. Rows are global frame numbers, 0 to num_frames - 1; episodes count from 0.

    A format of your own derives from this class and supplies the members below and `frames`, `instructions` and `hash`;
    what it has no annotations, videos or names for keeps its default.

    root        path or name, for messages
    columns     {name: array[num_frames, ...]} of numbers, with "observation.state" and "action"
    starts      int64[num_episodes + 1]: first row of each episode, and num_frames
    fps         frames per second
    cameras     names of the cameras
    embodiment  the robot, None where nobody described it
    """

    root: Path
    columns: dict[str, np.ndarray]
    starts: np.ndarray
    fps: float
    cameras: tuple[str, ...]
    embodiment: Embodiment | None
    robot_type: str | None = None
    is_cached: bool = True  # a cache of decoded frames would gain nothing

    def frames(self, camera: str, rows: np.ndarray) -> np.ndarray:
        """Images uint8[n, h, w, 3] of the rows, in any order and with duplicates."""
        ...

    def instructions(self, rows: np.ndarray) -> list[str]:
        """The instruction in force at each row."""
        ...

    def hash(self) -> str:
        """Digest of the contents: another value where anything that training reads has changed."""
        ...

    def annotations(self, rows: np.ndarray) -> list[Annotation] | None:
        """The annotation of each row, or None when the data set has none at all (see `has` for each)."""
        return None

    def has(self, annotation: str) -> bool:
        """Whether there is this annotation: subtask, boxes, trace, point, progress, gripper_switch or contact."""
        return False

    def traces(self, camera: str, rows: np.ndarray | None = None) -> list[np.ndarray]:
        """Future end-effector points int64[k, 2] of each row (default: all), 0-1000."""
        raise ValueError(f"{self.root} has no trace annotation; collect it with annotations, or train without it.")

    def info(self, episode: int) -> dict[str, Any]:
        """`Episode.info` of an episode; empty for data sets that have none."""
        return {}

    def feature(self, column: str) -> dict[str, Any]:
        """Description of a column: "names" of its dimensions where they are known."""
        return {}

    def mismatches(self) -> dict[str, list[Any]]:
        """{camera: findings about frames that do not fit their rows (lerobot/mismatch.py)}."""
        return {}

    def cached(self, size: tuple[int, int] | None, folder: Path | str) -> "EpisodeSource":
        """The same data set with decoded frames of `size` (height, width) in `folder`, where the format has a cache."""
        return self

    def image_size(self, camera: str) -> tuple[int, int]:
        """Stored (height, width) of a camera."""
        height, width = self.frames(camera, np.zeros(1, np.int64)).shape[1:3]
        return height, width

    @property
    def num_episodes(self) -> int:
        return len(self.starts) - 1

    @property
    def num_frames(self) -> int:
        return int(self.starts[-1])

    def require_embodiment(self) -> Embodiment:
        """The embodiment; FileNotFoundError where there is none."""
        if self.embodiment is None:
            raise FileNotFoundError(f"{self.root} has no embodiment; let its format supply one.")
        return self.embodiment

    def episode_slice(self, episode: int) -> slice:
        """Rows of an episode."""
        if not 0 <= episode < self.num_episodes:
            raise IndexError(f"{self.root} has episodes 0 to {self.num_episodes - 1}, not {episode}.")
        return slice(int(self.starts[episode]), int(self.starts[episode + 1]))

    def episode_of(self, rows: np.ndarray | int) -> np.ndarray:
        """Episode of each row, int64 of the same shape."""
        return np.searchsorted(self.starts, self._checked(rows), side="right") - 1

    def instruction(self, episode: int, frame: int = 0) -> str:
        """The instruction in force at a frame of an episode (most data sets have one an episode)."""
        return self.instructions(np.array([self.episode_slice(episode).start + frame]))[0]

    def windows(self, column: str, rows: np.ndarray, horizon: int) -> tuple[np.ndarray, np.ndarray]:
        """(float32[n, horizon, d], is_pad bool[n, horizon]): `horizon` steps from each row on, clamped to its episode.

        Steps after the episode's end repeat its last value and are marked. A NaN or infinity raises ValueError.
        """
        rows = np.atleast_1d(self._checked(rows))
        if column not in self.columns:
            raise ValueError(f"{self.root} has no numeric column {column!r}; it has {', '.join(sorted(self.columns))}.")
        last = self.starts[self.episode_of(rows) + 1] - 1
        wanted = rows[:, None] + np.arange(horizon)
        taken = np.minimum(wanted, last[:, None])
        window = self.columns[column][taken].reshape(len(rows), horizon, -1)
        finite = np.isfinite(window).all(-1)
        if not finite.all():
            sample, step = np.argwhere(~finite)[0]
            raise self._not_finite(column, int(taken[sample, step]), sample=int(rows[sample]))
        return window.astype(np.float32, copy=False), wanted > last[:, None]

    def values(self, column: str, rows: np.ndarray) -> np.ndarray:
        """float32[n, d] of a numeric column. A NaN or infinity raises ValueError with the row."""
        return self.windows(column, rows, 1)[0][:, 0]

    def _checked(self, rows: np.ndarray | int) -> np.ndarray:
        rows = np.asarray(rows, np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.num_frames):
            raise IndexError(f"{self.root} has rows 0 to {self.num_frames - 1}, not {rows.min()} to {rows.max()}.")
        return rows

    def _not_finite(self, column: str, row: int, sample: int | None = None) -> ValueError:
        return ValueError(
            f"{column} of {self.root} is not finite in row {row}: {self.columns[column][row].tolist()}. "
            f"Repair the value, drop the episode, or pass --bad-samples quarantine."
        )

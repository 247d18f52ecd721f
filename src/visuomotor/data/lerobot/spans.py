"""Rows of each video of a camera, and the time at which the tables place them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.data.lerobot import layout
from visuomotor.data.lerobot.layout import DataError, Info
from visuomotor.data.lerobot.stamps import describe_stamps, is_nominal


@dataclass(frozen=True, kw_only=True)
class RowTimes:
    """Time of all rows of a data set, shared by its cameras.

    starts: int64[episodes + 1], first row of each episode; stamps: float64[rows], timestamp in seconds; numbers:
    [rows], frame_index.
    """

    fps: float
    starts: np.ndarray
    stamps: np.ndarray
    numbers: np.ndarray


def row_times(fps: float, starts: np.ndarray, columns: Mapping[str, np.ndarray]) -> RowTimes:
    """Times by the columns timestamp and frame_index; a column that is absent counts from the start of the episode."""
    counted = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
    numbers = columns.get("frame_index", counted)
    # In float32 the sum with from_timestamp would be off by a quarter of a millisecond after two hours.
    stamps = columns.get("timestamp", numbers / fps).astype(np.float64)
    return RowTimes(fps=fps, starts=starts, stamps=stamps, numbers=numbers)


@dataclass(frozen=True, kw_only=True)
class VideoRows:
    """Rows whose pictures lie in one video file; episodes by ascending from_timestamp, without empty ones.

    episodes: int64[E], lengths: int64[E]; begin, end: float64[E], from_timestamp and to_timestamp in seconds.
    stamps: float64[R] seconds, numbers: [R] frame_index; the rows of the first episode first. A *place* is an index
    into `episodes`.
    """

    path: Path
    fps: float
    episodes: np.ndarray
    lengths: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    stamps: np.ndarray
    numbers: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """int64[E + 1], first row of each place."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def needed(self) -> np.ndarray:
        """float64[E], time in seconds at which the last row of each episode ends, at `fps`."""
        return self.begin + self.lengths / self.fps

    def rows(self, place: int) -> slice:
        """Rows of a place."""
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    @cached_property
    def steps(self) -> np.ndarray:
        """Seconds from one row to the next by the stamps, of all episodes, where time goes forward."""
        steps = np.diff(self.stamps)
        steps[self.starts[1:-1] - 1] = np.nan  # from one episode to the next
        return steps[steps > 0]

    @cached_property
    def step(self) -> float:
        """Median of the steps in seconds."""
        return float(np.median(self.steps)) if len(self.steps) else 1 / self.fps

    def has_rising_stamps(self, place: int) -> bool:
        """True when the stamps of a place are finite and increase."""
        stamps = self.stamps[self.rows(place)]
        return bool(np.isfinite(stamps).all() and (np.diff(stamps) > 0).all())

    def has_nominal_stamps(self, place: int) -> bool:
        """True when the stamps of a place are frame_index / fps, to within half a frame."""
        rows = self.rows(place)
        return is_nominal(self.stamps[rows], self.numbers[rows], self.fps)

    def describe_stamps(self, place: int) -> str:
        """Sentence about stamps that are not frame_index / fps; empty when they are."""
        rows = self.rows(place)
        return describe_stamps(self.stamps[rows], self.numbers[rows], self.fps)


class CameraRows:
    """Rows of one camera by video. files: one for each episode; begin, end: float64[episodes], seconds."""

    def __init__(self, times: RowTimes, files: Sequence[Path], begin: np.ndarray, end: np.ndarray) -> None:
        self.times, self.files = times, files
        self._begin, self._end = begin, end
        self.episodes: dict[Path, list[int]] = {}  # those with rows
        for episode, path in enumerate(files):
            if times.starts[episode + 1] > times.starts[episode]:
                self.episodes.setdefault(path, []).append(episode)

    def row_count(self, path: Path) -> int:
        """Number of rows whose frames lie in a video."""
        starts = self.times.starts
        return sum(int(starts[episode + 1] - starts[episode]) for episode in self.episodes[path])

    def of(self, path: Path) -> tuple[VideoRows, np.ndarray]:
        """Rows of a video by ascending from_timestamp, and their places in the data set, int64[R]."""
        starts = self.times.starts
        episodes = np.array(self.episodes[path])
        # The order in the video, which need not be that of the episodes; NaN comes last.
        episodes = episodes[np.argsort(self._begin[episodes], kind="stable")]
        lengths = starts[episodes + 1] - starts[episodes]
        shift = starts[episodes] - np.concatenate([[0], np.cumsum(lengths)[:-1]])
        index = np.repeat(shift, lengths) + np.arange(lengths.sum())
        rows = VideoRows(
            path=path,
            fps=self.times.fps,
            episodes=episodes,
            lengths=lengths,
            begin=self._begin[episodes],
            end=self._end[episodes],
            stamps=self.times.stamps[index],
            numbers=self.times.numbers[index],
        )
        return rows, index


def camera_rows(root: Path, key: str, info: Info, episodes: Mapping[str, Sequence[Any]], times: RowTimes) -> CameraRows:
    """Rows of a camera, by the columns of meta/episodes; DataError when these do not name a video."""
    folder = root / "meta" / "episodes"
    chunks, numbers, begin = (
        episodes.get(f"videos/{key}/{name}") for name in ("chunk_index", "file_index", "from_timestamp")
    )
    if chunks is None or numbers is None or begin is None:
        raise DataError(folder, f"does not say where the videos of {key} are. Restore the original.")
    template = info.video_path or layout.VIDEO_PATH
    files: list[Path] = []
    for episode, (chunk, number) in enumerate(zip(chunks, numbers, strict=True)):
        # Null in an integer column, NaN in one that pandas made of it.
        if not np.isfinite(np.array([chunk, number], np.float64)).all():
            message = f"names no video of {key}: chunk_index is {chunk}, file_index is {number}. Restore the original."
            raise DataError(folder, message, episode=episode)
        files.append(root / template.format(video_key=key, chunk_index=int(chunk), file_index=int(number)))
    end = episodes.get(f"videos/{key}/to_timestamp") or [None] * len(files)
    return CameraRows(times, files, np.array(begin, np.float64), np.array(end, np.float64))

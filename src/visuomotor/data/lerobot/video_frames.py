"""Frames of one camera from its mp4 files, each row with the frame that `matching.py` gives it."""

import logging
import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from visuomotor.data.lerobot import refusals
from visuomotor.data.lerobot.clock import VideoClock, read_clock, read_header
from visuomotor.data.lerobot.layout import DataError
from visuomotor.data.lerobot.matching import Match, match_rows
from visuomotor.data.lerobot.mismatch import Mismatch, merge
from visuomotor.data.lerobot.spans import CameraRows, VideoRows
from visuomotor.data.lerobot.stamps import stamp_deviation
from visuomotor.data.lerobot.video import DecoderPool

logger = logging.getLogger(__name__)
HEADERS_AT_OPENING = 64  # videos of a camera whose headers are read when a data set is opened
CLOCKS_AT_OPENING = 8  # videos of a camera that are matched then, of those whose header or tables look wrong
SURE = 0.25  # of a frame: tables and header that are as near as this need no closer look at opening


class VideoFrames:
    """Frames of one camera. A video is matched with its rows before its first frame is read."""

    def __init__(self, camera: str, rows: CameraRows) -> None:
        self._camera, self._rows, self._starts = camera, rows, rows.times.starts
        self._ticks = np.zeros(self._starts[-1], np.int64)  # presentation time of the frame of each row
        self._refusals = np.full(self._starts[-1], -1, np.int32)  # place in the findings of the video, -1: has a frame
        self._findings: dict[Path, list[Mismatch]] = {}  # of the videos that are matched
        self._reported: set[str] = set()
        self._lock = threading.Lock()
        self._pool = DecoderPool()

    def read(self, rows: np.ndarray) -> np.ndarray:
        images: np.ndarray | None = None
        done = 0
        episodes = np.searchsorted(self._starts, rows, side="right") - 1
        files = [self._rows.files[e] for e in episodes]
        for begin, end in _runs(files):
            path = files[begin]
            try:
                for image in self._decode(path, rows[begin:end]):
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

    def _decode(self, path: Path, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Images of rows in one video, up to the first row without a frame, which is a DataError."""
        if path not in self._findings:
            self._match(path)
            self._report(self._findings[path])
        is_refused = self._refusals[rows] >= 0
        stop = int(is_refused.argmax()) if is_refused.any() else len(rows)
        if stop:
            yield from self._pool.get(path).read(self._ticks[rows[:stop]])
        if stop < len(rows):
            raise DataError(path, self._refusal(path, int(rows[stop])))

    def _refusal(self, path: Path, row: int) -> str:
        mismatch = self._findings[path][self._refusals[row]]
        return f"{mismatch.message} {mismatch.remedy}"

    def _fail(self, path: Path, row: int, message: str, cause: Exception) -> NoReturn:
        episode = int(np.searchsorted(self._starts, row, side="right")) - 1
        frame = row - int(self._starts[episode])
        raise DataError(path, message, row=row, episode=episode, frame=frame) from cause

    def inspect(self) -> None:
        """Log what tables and headers show to be wrong; a glance, so that a large data set opens quickly.

        Videos that look right here are still matched before their first frame is read.
        """
        paths = list(self._rows.episodes)
        sample = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), HEADERS_AT_OPENING)).astype(int))
        suspects: list[Path] = []
        for place in sample.tolist():
            if len(suspects) == CLOCKS_AT_OPENING:
                break
            try:
                if not self._looks_right(paths[place]):
                    self._match(paths[place])
                    suspects.append(paths[place])
            except DataError:
                continue  # raised again, with its row, when a frame of this video is read; `check` lists it
        # One message for all of them, not one for each video.
        self._report([mismatch for path in suspects for mismatch in self._findings[path]])

    def examine(self) -> list[Mismatch]:
        """Findings of all videos by all their packets. A video that cannot be read is left to whoever reads it."""
        findings: list[Mismatch] = []
        for path in self._rows.episodes:
            try:
                index, packets = read_clock(path), read_clock(path, packets=True)
            except DataError:
                continue
            rows, _ = self._rows.of(path)
            # Rows are read by the index, so that is what the rules judge; packets show whether it is true.
            if not np.array_equal(index.ticks, packets.ticks):
                findings.append(refusals.unreadable(rows, len(index), len(packets)))
            findings += self._rules(rows, index).mismatches
        return merge(findings)

    def check(self) -> list[DataError]:
        errors: list[DataError] = []
        for path, episodes in self._rows.episodes.items():
            try:
                self._match(path)
            except DataError as error:
                errors += [DataError(path, error.message, row=int(self._starts[e]), episode=e) for e in episodes]
                continue
            for episode in episodes:
                rows = np.arange(self._starts[episode], self._starts[episode + 1])
                refused_rows = rows[self._refusals[rows] >= 0].tolist()
                if refused_rows:
                    message = self._refusal(path, refused_rows[0])
                    errors.append(DataError(path, message, row=refused_rows[0], episode=episode))
        return errors

    def _match(self, path: Path) -> None:
        """Find the frames of a video's rows, once."""
        with self._lock:
            if path in self._findings:
                return
            clock = read_clock(path)
            rows, index = self._rows.of(path)
            match = self._rules(rows, clock)
            self._ticks[index] = clock.ticks[match.frames]  # of a refused row: any, it is not read
            self._refusals[index] = match.refusals
            self._findings[path] = match.mismatches

    def _rules(self, rows: VideoRows, clock: VideoClock) -> Match:
        match = match_rows(rows, clock)
        if any(mismatch.kind in ("spare", "tail") for mismatch in match.mismatches):
            other = self._short_video(rows.path)
            if other is not None:
                match.refuse_all(refusals.exchanged(match.reading, range(len(rows.episodes)), other.name))
        return match

    def _short_video(self, path: Path) -> Path | None:
        """Another video of this camera with fewer frames than rows."""
        for other in self._rows.episodes:
            try:
                if other != path and 0 < read_header(other).frames < self._rows.row_count(other):
                    return other
            except DataError:
                continue  # it has errors of its own when it is read
        return None

    def _looks_right(self, path: Path) -> bool:
        """True when tables and header leave no doubt about a video whose frames are evenly spaced."""
        rows, _ = self._rows.of(path)
        spans = np.concatenate([rows.needed - rows.end, rows.begin - rows.begin[0] - rows.starts[:-1] / rows.fps])
        deviation = stamp_deviation(rows.stamps, rows.numbers, rows.fps)
        if not ((np.abs(spans) * rows.fps <= SURE).all() and (np.abs(deviation) <= SURE).all()):
            return False
        header = read_header(path)
        if not header.frames:
            return True  # the container states no number
        length = header.frames / header.rate if header.rate else 0.0
        times = np.array([header.start - rows.begin[0], length - len(rows) / rows.fps])
        return header.frames == len(rows) and bool((np.abs(times) * rows.fps <= SURE).all())

    def _report(self, mismatches: Sequence[Mismatch]) -> None:
        """Log warnings and errors, each kind once for the camera."""
        for mismatch in merge(mismatches):
            if mismatch.severity != "note" and mismatch.kind not in self._reported:
                self._reported.add(mismatch.kind)
                logger.warning("camera %s: %s", self._camera, mismatch)

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _runs(files: Sequence[Path]) -> list[tuple[int, int]]:
    """Ranges of equal neighbours."""
    edges = [
        0,
        *(i for i in range(1, len(files)) if files[i] is not files[i - 1] and files[i] != files[i - 1]),
        len(files),
    ]
    return [(a, b) for a, b in pairwise(edges) if b > a]

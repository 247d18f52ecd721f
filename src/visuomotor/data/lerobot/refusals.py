"""Sentences of the errors by which rows have no picture; the letters are the rules of `matching.py`."""

from collections.abc import Sequence

import numpy as np

from visuomotor.data.lerobot.by_time import TimeReading
from visuomotor.data.lerobot.mismatch import RESTORE, Mismatch, counted
from visuomotor.data.lerobot.spans import VideoRows


def contradiction(reading: TimeReading, places: list[int], number: np.ndarray, same: np.ndarray) -> Mismatch:
    """Rule c, for an uneven video. number: int64[R], frames by number; same: bool[R], time names the same frame."""
    rows, mine = reading.rows, reading.rows.rows(places[0])
    differing_rows = np.flatnonzero(~same[mine]) + mine.start
    row, length = int(differing_rows[0]), len(same[mine])
    apart = counted(int(np.abs(reading.frames[mine] - number[mine]).max()), "frame")
    return _error(
        reading,
        places,
        "contradiction",
        f"time and number name different frames for {len(differing_rows)} of {length} rows, up to {apart} "
        f"apart: row {row - mine.start} has frame {reading.frames[row]} of the video by time "
        f"({reading.times[row]:.5g} s) and frame {number[row]} by number. The frame rate of the video is "
        f"not constant, so neither is certain.",
        f"Write the times of the video into timestamp, or encode the video again with one frame for each row at "
        f"{rows.fps:g} frames a second.",
    )


def disorder(reading: TimeReading) -> Mismatch:
    """Rule c, for spans that do not follow the lengths of the episodes."""
    rows = reading.rows
    by_rows = rows.begin[0] + rows.starts[:-1] / rows.fps
    away = np.abs(rows.begin - by_rows) * rows.fps
    place = int(np.where(np.isfinite(away), away, np.inf).argmax())
    return _error(
        reading,
        range(len(rows.episodes)),
        "disorder",
        f"the video has one frame for each row, but its spans do not follow the lengths of the episodes: episode "
        f"{rows.episodes[place]} begins at {rows.begin[place]:.5g} s by from_timestamp, and at {by_rows[place]:.5g} s "
        f"({away[place]:.1f} frames away) by the rows before it. Neither is certain.",
        RESTORE,
    )


def short(reading: TimeReading, end: float) -> Mismatch:
    """Rule d: the spans go on until `end`, the video does not."""
    rows = reading.rows
    stop = float(reading.clock.seconds[-1]) + reading.frame
    return _error(
        reading,
        range(len(rows.episodes)),
        "short",
        f"its {len(reading.clock)} frames end at {stop:.5g} s, but its episodes, with {len(rows)} rows, last until "
        f"{end:.5g} s: {counted(round((end - stop) * rows.fps), 'frame')} too few, "
        f"and nothing shows where the loss was.",
        "Copy the video again from where the data set came from, or correct file_index in meta/episodes. If the "
        "recorder lost the frames, leave these episodes out.",
    )


def overlap(reading: TimeReading, place: int) -> Mismatch:
    """Rule e: the episode after `place` begins before an earlier one ends."""
    rows = reading.rows
    end = np.fmin(rows.end, rows.needed)
    owner = int(end[: place + 1].argmax())
    shared = counted(round(float(end[owner] - rows.begin[place + 1]) * rows.fps), "frame")
    return _error(
        reading,
        range(len(rows.episodes)),
        "overlap",
        f"the span of episode {rows.episodes[owner]} ends at {end[owner]:.5g} s, but that of episode "
        f"{rows.episodes[place + 1]} begins at {rows.begin[place + 1]:.5g} s: {shared} would belong "
        f"to both, and the video has {len(reading.clock)} frames for {len(rows)} rows.",
        RESTORE,
    )


def unplaced(reading: TimeReading) -> Mismatch:
    """A video with several episodes, one of them without from_timestamp."""
    rows = reading.rows
    place = int(np.flatnonzero(~np.isfinite(rows.begin))[0])
    return _error(
        reading,
        range(len(rows.episodes)),
        "unplaced",
        f"from_timestamp of episode {rows.episodes[place]} is not a number, and the video has {len(reading.clock)} "
        f"frames for {len(rows)} rows.",
        RESTORE,
    )


def count(reading: TimeReading, place: int) -> Mismatch:
    """Rule i: a span with another number of frames than rows, whose stamps do not settle which frames are meant."""
    rows = reading.rows
    stamps = rows.describe_stamps(place)
    return _error(
        reading,
        [place],
        "count",
        f"the span of episode {rows.episodes[place]}, {rows.begin[place]:.5g} to {rows.end[place]:.5g} s, holds "
        f"{reading.counts[place]} frames for {rows.lengths[place]} rows{', and ' + stamps if stamps else ''}: which "
        f"frame belongs to which row is not certain.",
        f"{RESTORE} If the recorder lost frames, leave the episode out.",
    )


def hole(reading: TimeReading, place: int, has_frame: np.ndarray) -> Mismatch:
    """Rule h. has_frame: bool[L], rows of the place that have a frame."""
    row = int(np.flatnonzero(~has_frame)[0])
    second = reading.times[reading.rows.rows(place).start + row]
    return _error(
        reading,
        [place],
        "hole",
        f"{int((~has_frame).sum())} of {len(has_frame)} rows have no frame within half a frame of their time, first "
        f"row {row} at {second:.5g} s: the video lacks frames there.",
        "Copy the video again, leave the episode out, or pass --bad-samples quarantine.",
    )


def exchanged(reading: TimeReading, places: Sequence[int], other: str) -> Mismatch:
    """Frames to spare at `places`, while `other` has too few: pictures of other rows are likely."""
    return _error(
        reading,
        places,
        "exchanged",
        f"the video has {len(reading.clock)} frames for {len(reading.rows)} rows, some of them to spare, while {other} "
        f"has too few: videos or spans may be exchanged.",
        RESTORE,
    )


def unreadable(rows: VideoRows, listed: int, readable: int) -> Mismatch:
    """A container whose index and packets differ."""
    return Mismatch(
        severity="error",
        kind="unreadable",
        path=rows.path,
        episodes=tuple(rows.episodes.tolist()),
        message=f"its index lists {listed} frames, of which {readable} can be read at their times.",
        remedy="The file is damaged or cut off: copy it again from where the data set came from.",
    )


def _error(reading: TimeReading, places: Sequence[int], kind: str, message: str, remedy: str) -> Mismatch:
    episodes = tuple(int(reading.rows.episodes[place]) for place in places)
    return Mismatch(
        severity="error", kind=kind, path=reading.rows.path, episodes=episodes, message=message, remedy=remedy
    )

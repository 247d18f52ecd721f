"""Sentences of the warnings and notes about rows whose pictures are right."""

from collections.abc import Sequence

import numpy as np

from visuomotor.data.lerobot.by_time import SLACK, TimeReading
from visuomotor.data.lerobot.mismatch import Mismatch, Severity
from visuomotor.data.lerobot.stamps import TOLERANCE

NOTHING = "Nothing needs to be done."
COMPARE = "Compare pictures and motion with `visuomotor data view`."


def by_number(reading: TimeReading, places: list[int], number: np.ndarray, same: np.ndarray) -> Mismatch:
    """Rule b. number: int64[R], frames by number; same: bool[R], time names the same frame."""
    rows = reading.rows
    differing_count = sum(int((~same[rows.rows(place)]).sum()) for place in places)
    total = sum(int(rows.lengths[place]) for place in places)
    return _remark(
        reading,
        places,
        "warning",
        "number",
        f"the video has exactly one frame for each row, so rows take frames by number. By time, {differing_count} of "
        f"{total} rows would take another frame or none: {_why_time_fails(reading, places[0], number)}.",
        "To correct the data set, write frame_index / fps into timestamp, and the times of the video into "
        "from_timestamp and to_timestamp.",
    )


def span_ends(reading: TimeReading, places: list[int], frames: np.ndarray) -> list[Mismatch]:
    """Invariant 2 where pictures are right: to_timestamp fits neither `fps` nor the video. frames: int64[R]."""
    rows = reading.rows
    last = reading.clock.seconds[frames[rows.starts[1:] - 1]] + reading.frame
    away = np.minimum(np.abs(rows.end - rows.needed), np.abs(rows.end - last))
    wrong_places = [place for place in places if away[place] > (TOLERANCE + SLACK) * reading.longer]
    if not wrong_places:
        return []
    first = wrong_places[0]
    message = (
        f"to_timestamp of episode {rows.episodes[first]} is {rows.end[first]:.5g} s, but its {rows.lengths[first]} "
        f"rows last until {rows.needed[first]:.5g} s. Each row has a frame at its time."
    )
    return [_remark(reading, wrong_places, "warning", "span end", message, "Correct to_timestamp in meta/episodes.")]


def other_rate(reading: TimeReading, places: list[int], *, slower: bool) -> Mismatch:
    """Rule g for a video that is slower or faster than the data."""
    rates = f"the video shows {1 / reading.frame:.4g} frames a second, the data has {reading.rows.fps:g}"
    if slower:
        message = f"{rates}: rows share frames, which are up to {reading.frame / 2:.3g} s away from them."
        remedy = "If that is too coarse, resample the data to the rate of the video, or record again."
        return _remark(reading, places, "warning", "slower", message, remedy)
    message = f"{rates}: the nearest frame is taken, the others are not used."
    return _remark(reading, places, "note", "faster", message, NOTHING)


def spare(reading: TimeReading, places: list[int]) -> Mismatch:
    """Rule g for spans with more frames than rows, at the rate of the data."""
    frames, length = reading.counts[places[0]], reading.rows.lengths[places[0]]
    return _remark(
        reading,
        places,
        "warning",
        "spare",
        f"the span of episode {reading.rows.episodes[places[0]]} holds {frames} frames for {length} rows; the last "
        f"{frames - length} are not used.",
        f"If the recorder wrote frames twice, pictures are late. {COMPARE} Otherwise correct to_timestamp.",
    )


def unused(reading: TimeReading) -> list[Mismatch]:
    """Frames outside all spans; at the end of the video they may be the trace of frames written twice."""
    all_places = range(len(reading.rows.episodes))
    outside_count = len(reading.clock) - int(reading.counts.sum())
    tail = len(reading.clock) - int(reading.stop[-1])
    if tail * reading.frame * reading.rows.fps < TOLERANCE:
        tail = 0
    remarks = []
    if outside_count > tail:
        message = f"{outside_count - tail} frames before or between the spans belong to no episode and are not used."
        remarks.append(_remark(reading, all_places, "note", "unused", message, NOTHING))
    if tail:
        message = f"the last {tail} of its {len(reading.clock)} frames belong to no episode and are not used."
        remedy = "If an episode was deleted there, nothing needs to be done. If the recorder wrote frames twice, "
        remedy += f"pictures are late. {COMPARE}"
        remarks.append(_remark(reading, all_places, "warning", "tail", message, remedy))
    return remarks


def _why_time_fails(reading: TimeReading, place: int, number: np.ndarray) -> str:
    rows = reading.rows
    stamps = rows.describe_stamps(place)
    if stamps:
        return f"in episode {rows.episodes[place]}, {stamps}"
    first_time = float(reading.clock.seconds[number[rows.starts[place]]])
    if not abs(rows.begin[place] - first_time) <= TOLERANCE * reading.frame:
        return (
            f"episode {rows.episodes[place]} begins at {rows.begin[place]:.5g} s by from_timestamp, but its first "
            f"frame is shown at {first_time:.5g} s"
        )
    return f"the video shows {1 / reading.frame:.4g} frames a second, the data has {rows.fps:g}"


def _remark(
    reading: TimeReading, places: Sequence[int], severity: Severity, kind: str, message: str, remedy: str
) -> Mismatch:
    episodes = tuple(int(reading.rows.episodes[place]) for place in places)
    return Mismatch(
        severity=severity, kind=kind, path=reading.rows.path, episodes=episodes, message=message, remedy=remedy
    )

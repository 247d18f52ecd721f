"""Which frame of a video belongs to each row: the invariants between tables and videos, stated once.

LeRobot v3.0 ties a row to the frame that is shown at `from_timestamp + timestamp` on the presentation clock of the
video (`clock.py`), and its writers store one frame for each row, at `fps`. So there are two readings: *by time*, the
nearest frame of the row's own episode, and *by number*, frame k of the video for the k-th row of its episodes.
Reading frames (`video_frames.py`) and `doctor` both call `match_rows`.

| # | invariant | tolerance |
|---|---|---|
| 1 | timestamp = frame_index / fps, over the whole episode | half a frame |
| 2 | spans [from_timestamp, to_timestamp] are in order, disjoint, and length / fps long | half a frame |
| 3 | a video has as many frames as its episodes have rows | none |
| 4 | each row has a frame of its own episode at its time | half of the longer frame of data and video |

Where they do not all hold, the first rule that applies decides:

| | the video has | and | rows take frames | finding |
|---|---|---|---|---|
| a | one frame for each row | both readings agree | by time | - |
| b | one frame for each row | spans in order; a constant rate, or a time without a frame | by number | warning |
| c | one frame for each row | anything else | - | error, whole video if spans are not in order |
| d | an end before the spans end, so that nothing shows where frames were lost | | - | error, whole video |
| e | spans that overlap, or that lack from_timestamp | | - | error, whole video |
| f | one frame for each row in the span of an episode | as in a, b, c | as in a, b, c | as in a, b, c |
| g | another number of frames in a span | stamps and span agree, each row has a frame | by time | note or warning |
| h | a hole in its times | all other rows have their frames | by time, none in the hole | error for these rows |
| i | another number of frames in a span | anything else | - | error |

Frames outside all spans are legal: LeRobot leaves them when episodes are deleted. A frame never comes from another
episode. A stream that starts at 0.5 s is case a if from_timestamp starts at 0.5 s, case b if it starts at 0.
"""

from dataclasses import dataclass, field

import numpy as np

from visuomotor.data.lerobot import refusals, remarks
from visuomotor.data.lerobot.by_time import SLACK, TimeReading, read_by_time
from visuomotor.data.lerobot.clock import VideoClock, unevenness
from visuomotor.data.lerobot.mismatch import Mismatch
from visuomotor.data.lerobot.spans import VideoRows
from visuomotor.data.lerobot.stamps import TOLERANCE

SAME_RATE = 0.02  # relative difference of two rates that counts as none


@dataclass(kw_only=True)
class Match:
    """Frames of the rows of one video.

    frames: int64[R], the frame of each row, -1 without one; refusals: int64[R], the place in `mismatches` of the error
    that took it away, else -1.
    """

    reading: TimeReading
    frames: np.ndarray
    refusals: np.ndarray
    mismatches: list[Mismatch] = field(default_factory=list)

    def refuse(self, rows: slice | np.ndarray, error: Mismatch) -> None:
        """Take the frames of these rows away."""
        self.frames[rows] = -1
        self.refusals[rows] = len(self.mismatches)
        self.mismatches.append(error)

    def refuse_all(self, error: Mismatch) -> None:
        """Take the frames of all rows away; other findings no longer matter."""
        self.mismatches.clear()
        self.refuse(slice(None), error)


def match_rows(rows: VideoRows, clock: VideoClock) -> Match:
    """Frame of each row of a video, by the rules of this module."""
    complete = len(clock) == len(rows)
    reading = read_by_time(rows, clock, bounded=not complete)
    match = Match(reading=reading, frames=np.full(len(rows), -1), refusals=np.full(len(rows), -1))
    places = np.arange(len(rows.episodes))
    if complete:
        number = np.arange(len(rows))
        # Order matters only where time does not already name the same frames.
        if not (_agreement(reading, number).all() or _is_in_order(reading)):
            match.refuse_all(refusals.disorder(reading))
            return match
        _one_frame_each(match, places, number)
        match.mismatches += [] if match.mismatches else remarks.span_ends(reading, places.tolist(), number)
        return match
    error = _whole_refusal(reading)
    if error is not None:
        match.refuse_all(error)
        return match
    other_rate = _other_rate(reading)
    is_equal = reading.counts == rows.lengths
    if other_rate and not is_equal.all():
        is_equal[:] = False  # a camera of its own rate; short episodes have as many frames as rows by chance
    number = np.repeat(reading.first - rows.starts[:-1], rows.lengths) + np.arange(len(rows))
    _one_frame_each(match, places[is_equal], number.clip(max=len(clock) - 1))
    _other_counts(match, places[~is_equal].tolist(), other_rate)
    match.mismatches += remarks.unused(reading)
    return match


def _agreement(reading: TimeReading, number: np.ndarray) -> np.ndarray:
    """bool[R], rows whose frame by time is that by `number`, int64[R]."""
    return reading.is_inside & (reading.frames == number)


def _one_frame_each(match: Match, places: np.ndarray, number: np.ndarray) -> None:
    """Rules a, b, c for `places` with as many frames as rows. number: int64[R], frames by number."""
    reading, rows = match.reading, match.reading.rows
    same = _agreement(reading, number)
    agree = np.logical_and.reduceat(same, rows.starts[:-1])
    numbered_places: list[int] = []
    contradictory_places: list[int] = []
    for place in places[~agree[places]].tolist():
        mine = rows.rows(place)
        possible = reading.distance[mine].max() <= reading.longer and rows.has_rising_stamps(place)
        # An evenly spaced video has no times of its own: its writer counted frames. An uneven one may have kept the
        # time of the camera, which is as good a witness as the stamps.
        uneven = possible and not _is_constant(reading.clock.seconds[number[mine]])
        (contradictory_places if uneven else numbered_places).append(place)
    taken_rows = _rows_of(rows, places.tolist())
    match.frames[taken_rows] = number[taken_rows]
    if numbered_places:
        match.mismatches.append(remarks.by_number(reading, numbered_places, number, same))
    if contradictory_places:
        error = refusals.contradiction(reading, contradictory_places, number, same)
        match.refuse(_rows_of(rows, contradictory_places), error)


def _rows_of(rows: VideoRows, places: list[int]) -> np.ndarray:
    """bool[R], rows of these places."""
    return np.repeat(np.isin(np.arange(len(rows.episodes)), places), rows.lengths)


def _is_constant(seconds: np.ndarray) -> bool:
    """True when frames follow each other at one rate, to within half a frame."""
    if len(seconds) < 3:
        return True
    line = np.linspace(seconds[0], seconds[-1], len(seconds))
    return bool(np.abs(seconds - line).max() <= TOLERANCE * (line[1] - line[0]))


def _is_in_order(reading: TimeReading) -> bool:
    """True when the spans lie where the lengths of the episodes put them, to within half a frame of one clock.

    The clock is that of `fps`, that of the video, or one that runs evenly over the whole video (spans made of drifting
    stamps, or in milliseconds). Spans that were exchanged, shifted or stretched singly fit none of them.
    """
    rows, seconds = reading.rows, reading.clock.seconds
    if len(rows.episodes) == 1:
        return True
    edges = np.concatenate([rows.begin, rows.end]) - rows.begin[0]
    expected = np.concatenate([rows.starts[:-1], rows.starts[1:]])
    is_finite = np.concatenate([np.ones(len(rows.episodes), bool), ~np.isnan(rows.end)])  # to_timestamp may be absent
    frame_times = np.append(seconds, seconds[-1] + reading.frame * np.array([1, 2])) - seconds[0]
    by_video = np.interp(edges, frame_times, np.arange(len(frame_times)), left=-np.inf, right=np.inf)
    positions = [edges * rows.fps, by_video]
    if edges[-1] > 0:
        positions.append(edges / edges[-1] * len(rows))
    return any((np.abs(p - expected)[is_finite] <= TOLERANCE + SLACK).all() for p in positions)


def _whole_refusal(reading: TimeReading) -> Mismatch | None:
    """Rules d and e: faults that may have moved every frame of the video."""
    rows = reading.rows
    if not np.isfinite(rows.begin).all():
        return refusals.unplaced(reading)
    # Where to_timestamp and length disagree, the shorter one is what the episode takes up for certain.
    end = np.fmin(rows.end, rows.needed)
    overlap = np.flatnonzero(np.maximum.accumulate(end)[:-1] - rows.begin[1:] > (TOLERANCE + SLACK) / rows.fps)
    if len(overlap):
        return refusals.overlap(reading, int(overlap[0]))
    stop = reading.clock.seconds[-1] + reading.frame
    if end.max() - stop > (TOLERANCE + SLACK) * reading.longer:
        return refusals.short(reading, float(end.max()))
    return None


def _other_counts(match: Match, places: list[int], other_rate: str) -> None:
    """Rules g, h, i for `places` with another number of frames than rows, one after the other."""
    reading, rows = match.reading, match.reading.rows
    kinds: dict[str, list[int]] = {"slower": [], "faster": [], "spare": [], "short": [], "refused": []}
    for place in places:
        kinds[_other_count(match, place, other_rate)].append(place)
    if kinds["short"] and kinds["spare"]:
        other = f"the span of episode {rows.episodes[kinds['short'][0]]}"
        match.refuse(_rows_of(rows, kinds["spare"]), refusals.exchanged(reading, kinds["spare"], other))
    elif kinds["spare"]:
        match.mismatches.append(remarks.spare(reading, kinds["spare"]))
    for kind in ("slower", "faster"):
        if kinds[kind]:
            match.mismatches.append(remarks.other_rate(reading, kinds[kind], slower=kind == "slower"))
            match.mismatches += remarks.span_ends(reading, kinds[kind], match.frames)


def _other_rate(reading: TimeReading) -> str:
    """`slower` or `faster` for a video whose rate is clearly not that of the rows; else empty."""
    rate = reading.rows.step / reading.frame
    if abs(rate - 1) <= max(SAME_RATE, reading.clock.unevenness + unevenness(reading.rows.steps)):
        return ""
    return "slower" if rate < 1 else "faster"


def _other_count(match: Match, place: int, other_rate: str) -> str:
    """Rules g, h, i for one episode.

    Returns: `other_rate` or spare when rule g or h holds and there are frames to spare; short when frames are missing;
    else refused.
    """
    reading, rows = match.reading, match.reading.rows
    mine, count, length = rows.rows(place), int(reading.counts[place]), int(rows.lengths[place])
    if rows.has_rising_stamps(place) and _fits_span(reading, place):
        frames = reading.frames[mine]
        has_frame = reading.is_inside[mine].copy()
        if other_rate != "slower":  # a frame belongs to the row that is nearest to it
            has_frame &= _is_nearest(frames, reading.distance[mine])
        # At the rate of the data, every frame of the span must have a row: otherwise some were moved, not only lost.
        is_accounted = bool(other_rate) or int(has_frame.sum()) == count
        if has_frame.all() or (is_accounted and reading.gap[mine][~has_frame].all()):
            match.frames[mine] = frames
            if not has_frame.all():
                match.refuse(np.flatnonzero(~has_frame) + mine.start, refusals.hole(reading, place, has_frame))
            return other_rate or ("spare" if count > length else "short")
    match.refuse(mine, refusals.count(reading, place))
    return "short" if count < length else "refused"


def _fits_span(reading: TimeReading, place: int) -> bool:
    """True when the stamps of an episode end with its span, or before it, and then run at `fps`."""
    rows = reading.rows
    last = rows.begin[place] + rows.stamps[rows.rows(place).stop - 1] + rows.step
    spare = rows.end[place] - last
    limit = (TOLERANCE + SLACK) * reading.longer
    return bool(abs(spare) <= limit) or (not spare < 0 and rows.has_nominal_stamps(place))


def _is_nearest(frames: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """bool[L], rows that are the nearest one to their frame."""
    order = np.lexsort((distances, frames))
    first = np.ones(len(frames), bool)
    first[1:] = frames[order][1:] != frames[order][:-1]
    nearest = np.empty(len(frames), bool)
    nearest[order] = first
    return nearest

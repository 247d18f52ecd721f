"""Whatever bends a data set, a row has its own frame, or none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.data.lerobot.clock import VideoClock
from visuomotor.data.lerobot.matching import Match, match_rows
from visuomotor.data.lerobot.spans import VideoRows

TICK = 1e-5
Bend = Callable[[np.ndarray], np.ndarray]
lengths_of = st.lists(st.integers(1, 30), min_size=1, max_size=5)
rates = st.sampled_from([5.0, 10.0, 30.0])


def match(
    lengths: list[int], fps: float, frame_times: np.ndarray, stamps: np.ndarray, begin: np.ndarray, end: np.ndarray
) -> Match:
    """Match of rows with frames shown at `frame_times`; episodes by `begin`, as `CameraRows.of` has them."""
    order = np.argsort(begin, kind="stable")
    parts = np.split(stamps, np.cumsum(lengths)[:-1])
    rows = VideoRows(
        path=Path("video.mp4"),
        fps=fps,
        episodes=order,
        lengths=np.array(lengths)[order],
        begin=begin[order],
        end=end[order],
        stamps=np.concatenate([parts[e] for e in order]).astype(np.float32).astype(np.float64),
        numbers=np.concatenate([np.arange(lengths[e]) for e in order]),
    )
    result = match_rows(rows, VideoClock(ticks=np.round(frame_times / TICK).astype(np.int64), tick=TICK))
    starts = np.cumsum([0, *lengths])
    places = np.concatenate([np.arange(starts[e], starts[e + 1]) for e in order])
    back = np.argsort(places)
    result.frames, result.refusals = result.frames[back], result.refusals[back]
    return result


def assert_expected_or_refused(result: Match, expected: np.ndarray) -> None:
    """expected: int64[R], the frame that was taken at each row; -1 for one that was lost."""
    has_frame = result.frames >= 0
    np.testing.assert_array_equal(result.frames[has_frame], expected[has_frame])
    assert ((result.refusals >= 0) == ~has_frame).all()
    assert all(result.mismatches[i].severity == "error" for i in result.refusals[~has_frame])


stamp_bends: st.SearchStrategy[Bend] = st.one_of(
    st.just(lambda t: t),
    st.floats(0.3, 3).map(lambda speed: lambda t: t * speed),
    st.floats(-50, 50).map(lambda shift: lambda t: t + shift),
    st.sampled_from([1e3, 1e6, 1e9]).map(lambda unit: lambda t: t * unit),
    st.integers(0, 20).map(lambda row: lambda t: np.where(np.arange(len(t)) == row, np.nan, t)),
    st.integers(1, 20).map(lambda row: lambda t: np.where(np.arange(len(t)) >= row, t - 0.7, t)),
    st.just(lambda t: t[::-1]),
)


@given(lengths_of, rates, stamp_bends, st.lists(st.integers(0, 4), min_size=6, max_size=6))
@settings(max_examples=400, deadline=None)
def test_bent_stamps_take_no_frame_of_another_row(
    lengths: list[int], fps: float, bend: Bend, unused: list[int]
) -> None:
    """One frame for each row, and unused ones before, between and behind the episodes; the spans say where."""
    first = np.cumsum([0, *lengths[:-1]]) + np.cumsum(unused)[: len(lengths)]
    expected = np.concatenate([start + np.arange(length) for start, length in zip(first, lengths, strict=True)])
    frame_times = np.arange(expected[-1] + 1 + unused[-1]) / fps
    stamps = bend((expected - np.repeat(first, lengths)) / fps)
    result = match(lengths, fps, frame_times, stamps, first / fps, (first + lengths) / fps)
    assert (result.frames == expected).all()


@given(lengths_of, rates, st.data())
@settings(max_examples=400, deadline=None)
def test_bent_spans_take_no_frame_of_another_row(lengths: list[int], fps: float, data: st.DataObject) -> None:
    """One frame for each row; spans that are stretched, shifted, exchanged or wrong in one place."""
    starts = np.cumsum([0, *lengths])
    begin, end = starts[:-1] / fps, starts[1:] / fps
    kind = data.draw(st.sampled_from(["stretch", "shift", "exchange", "begin", "end", "missing"]))
    place = data.draw(st.integers(0, len(lengths) - 1))
    amount = data.draw(st.floats(-20, 20))
    if kind == "stretch":
        begin, end = begin * (1 + abs(amount)), end * (1 + abs(amount))
    elif kind == "shift":
        begin, end = begin + amount, end + amount
    elif kind == "exchange":
        other = data.draw(st.permutations(range(len(lengths))))
        begin, end = begin[other], end[other]
    elif kind == "missing":
        begin[place] = np.nan
    else:
        (begin if kind == "begin" else end)[place] += amount
    expected = np.arange(starts[-1])
    bend = data.draw(stamp_bends)
    result = match(lengths, fps, expected / fps, bend((expected - np.repeat(starts[:-1], lengths)) / fps), begin, end)
    if kind == "exchange" and len(set(lengths)) < len(lengths):
        return  # episodes of the same length may be exchanged without a trace
    assert_expected_or_refused(result, expected)


@given(lengths_of, rates, st.data())
@settings(max_examples=400, deadline=None)
def test_lost_frames_take_no_frame_of_another_row(lengths: list[int], fps: float, data: st.DataObject) -> None:
    """Frames are lost; the times of the video show where, or the encoder closed the gaps, or the spans did so too."""
    rows = sum(lengths)
    lost_rows = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=max(1, rows // 3), unique=True))
    remaining = np.setdiff1d(np.arange(rows), lost_rows)
    if not len(remaining):
        return
    jitter = np.array(data.draw(st.lists(st.floats(-0.3, 0.3), min_size=rows, max_size=rows)))
    times = (np.arange(rows) + (jitter if data.draw(st.booleans()) else 0 * jitter)) / fps
    frame_times = times[remaining] if data.draw(st.booleans()) else np.arange(len(remaining)) / fps
    starts = np.cumsum([0, *lengths])
    expected = np.full(rows, -1)
    expected[remaining] = np.arange(len(remaining))
    begin, end = starts[:-1] / fps, starts[1:] / fps
    stamps = times - np.repeat(begin, lengths)
    if data.draw(st.booleans()):
        edges = np.searchsorted(remaining, starts) / fps
        frame_times, begin, end = np.arange(len(remaining)) / fps, edges[:-1], edges[1:]
    assert_expected_or_refused(match(lengths, fps, frame_times, stamps, begin, end), expected)


@given(lengths_of, st.data())
@settings(max_examples=200, deadline=None)
def test_true_times_are_read_by_time(lengths: list[int], data: st.DataObject) -> None:
    """A loop that varies by half of its step, with a frame for each row at its true time: nothing is refused."""
    rows = sum(lengths)
    steps = data.draw(st.lists(st.floats(0.05, 0.15), min_size=rows, max_size=rows))
    times = np.cumsum([0, *steps])
    starts = np.cumsum([0, *lengths])
    begin, end = times[starts[:-1]], times[starts[1:]]
    result = match(lengths, 10.0, times[:-1], times[:-1] - np.repeat(begin, lengths), begin, end)
    np.testing.assert_array_equal(result.frames, np.arange(rows))
    assert not [mismatch for mismatch in result.mismatches if mismatch.kind != "span end"]


@given(lengths_of, st.sampled_from([7.0, 12.5, 15.0, 25.0, 29.97, 60.0]))
@settings(max_examples=200, deadline=None)
def test_a_camera_of_another_rate_is_read_at_the_nearest_time(lengths: list[int], rate: float) -> None:
    """Frames of the row's own episode, at most half a frame of the slower one away; or the row is refused."""
    starts = np.cumsum([0, *lengths])
    times = np.arange(starts[-1]) / 10
    frame_times = np.arange(np.ceil(starts[-1] / 10 * rate)) / rate
    begin, end = starts[:-1] / 10, starts[1:] / 10
    if starts[-1] < 25 or len(frame_times) < 10:
        return  # few frames do not show a rate, and may be as many as the rows by chance
    result = match(lengths, 10.0, frame_times, times - np.repeat(begin, lengths), begin, end)
    has_frame = result.frames >= 0
    picture_times = frame_times[result.frames[has_frame]]
    assert (np.abs(picture_times - times[has_frame]) <= 0.51 * max(0.1, 1 / rate) + TICK).all()
    assert (picture_times > (np.repeat(begin, lengths) - 0.51 * min(0.1, 1 / rate))[has_frame]).all()
    assert (picture_times < np.repeat(end, lengths)[has_frame]).all()
    if rate > 10:
        assert has_frame.all()

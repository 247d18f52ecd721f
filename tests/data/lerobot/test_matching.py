"""Bent stamps, spans and frame counts: each row shows its own picture, or is refused with size and remedy."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.lerobot.bent import (
    FPS,
    Clip,
    Placed,
    finding,
    frames,
    has_picture,
    picture_numbers,
    refusal,
    without,
    write,
)
from visuomotor.data.lerobot import DataError, Dataset

WARNED = "WARNING"


# Sets that are as they should be


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("libx264", {"g": "2", "bf": "0"}),
        ("libx264", {"g": "12", "bf": "2"}),
        ("libx264", {}),
        ("libx265", {"x265-params": "log-level=none"}),
        ("libsvtav1", {}),
        ("libsvtav1", {"g": "2", "preset": "12"}),
    ],
)
def test_healthy_sets_are_read_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str, options: dict[str, str]
) -> None:
    clip = Clip(numbers=range(45), rate=30, codec=codec, options=options)
    dataset = Dataset(write(tmp_path / "set", [20, 1, 24], Placed(clips=[clip]), fps=30))
    assert all(has_picture(dataset))
    assert dataset.mismatches() == {"front": []}
    assert not caplog.records


def test_float32_stamps_of_a_long_episode_are_no_drift(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """36,000 frames at 30 per second: float32 is off by up to 6e-5 s, a hundredth of what is allowed."""
    dataset = Dataset(write(tmp_path / "set", [36_000], fps=30.0))
    assert dataset.columns["timestamp"].dtype == np.float32
    rows = np.arange(0, 36_000, 7)
    assert picture_numbers(dataset.frames("front", rows)) == rows.tolist()
    assert dataset.mismatches() == {"front": []}
    assert not caplog.records


def test_empty_and_one_frame_episodes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = Dataset(write(tmp_path / "set", [0, 1, 0, 3, 1, 0]))
    assert all(has_picture(dataset))
    assert dataset.num_episodes == 6
    assert dataset.mismatches() == {"front": []}
    assert not caplog.records


def test_several_videos_and_one_frame_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    placed = Placed(
        clips=[Clip(numbers=[0, 1, 2]), Clip(numbers=[3]), Clip(numbers=[4])],
        files=[0, 1, 2], begin=[0, 0, 0], end=[0.3, 0.1, 0.1],
    )  # fmt: skip
    dataset = Dataset(write(tmp_path / "set", [3, 1, 1], placed))
    assert all(has_picture(dataset))
    assert not caplog.records


@pytest.mark.parametrize(
    ("suffix", "container"), [("mkv", {}), ("mp4", {"movflags": "frag_keyframe+empty_moov+delay_moov"})]
)
@pytest.mark.parametrize("bframes", ["0", "2"])
def test_containers_without_a_full_index(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, container: dict[str, str], bframes: str
) -> None:
    clip = Clip(numbers=range(30), options={"bf": bframes}, container=container)
    template = "videos/{video_key}/{chunk_index}-{file_index}." + suffix
    dataset = Dataset(write(tmp_path / "set", [12, 18], Placed(clips=[clip]), video_path=template))
    assert all(has_picture(dataset))
    assert dataset.mismatches() == {"front": []}
    assert not caplog.records


# Invariant 1: time stamps


@pytest.mark.parametrize(
    ("speed", "length"), [(0.95, 100), (1.05, 100), (0.999, 1200), (1.001, 1200), (1.0005, 2400), (0.5, 40), (2.0, 40)]
)
@pytest.mark.parametrize("spans", ["nominal", "stamps"])
def test_drifting_stamps_leave_each_row_its_picture(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, speed: float, length: int, spans: str
) -> None:
    clock = speed if spans == "stamps" else 1.0
    placed = Placed(
        clips=[Clip(numbers=range(2 * length))],
        begin=[0, clock * length / FPS],
        end=[clock * length / FPS, clock * 2 * length / FPS],
    )
    root = write(tmp_path / "set", [length, length], placed, stamps=frames(length, length) * speed / FPS)
    dataset = Dataset(root)
    assert [record.levelname for record in caplog.records] == [WARNED]
    drift = (speed - 1) * (length - 1)
    assert f"drift from frame_index / fps, {drift:+.1f} frames at frame {length - 1}" in caplog.text
    assert all(has_picture(dataset))
    assert finding(dataset).severity == "warning"
    assert f"({speed:g} times as fast)" in finding(dataset).message


def test_a_drift_of_less_than_half_a_frame_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = Dataset(write(tmp_path / "set", [100, 100], stamps=frames(100, 100) * 1.004 / FPS))
    assert all(has_picture(dataset))
    assert dataset.mismatches() == {"front": []}
    assert not caplog.records


def backwards(stamps: np.ndarray) -> np.ndarray:
    stamps[12:] -= 0.8
    return stamps


def with_nan(stamps: np.ndarray) -> np.ndarray:
    stamps[[3, 4]] = np.nan
    return stamps


@pytest.mark.parametrize(
    ("bend", "sentence"),
    [
        (lambda t: t + 0.5, "its timestamps begin at 0.5 s, +5.0 frames from frame_index / fps"),
        (lambda t: t - 1.0, "its timestamps begin at -1 s, -10.0 frames"),
        (lambda t: t + 1.7e9, "its timestamps begin at 1.7e"),
        (lambda t: t * 1e3, "its timestamps look like milliseconds: that of frame 19 is 1900"),
        (lambda t: t * 1e6, "its timestamps look like microseconds: that of frame 19 is 1.9e+06"),
        (lambda t: t * 1e9, "its timestamps look like nanoseconds: that of frame 19 is 1.9e+09"),
        (backwards, "its timestamps run backwards at frame 12, from 1.1 to 0.4 s"),
        (with_nan, "its timestamps are not finite in 2 rows, first in frame 3"),
        (lambda t: t * 0, "its timestamps drift from frame_index / fps, -19.0 frames at frame 19"),
    ],
)
def test_stamps_that_name_no_frame(tmp_path: Path, caplog: pytest.LogCaptureFixture, bend, sentence: str) -> None:
    """The video has one frame for each row, at a constant rate: rows take frames by number."""
    stamps = np.concatenate([bend(np.arange(20) / FPS), np.arange(15) / FPS])
    dataset = Dataset(write(tmp_path / "set", [20, 15], stamps=stamps))
    assert all(has_picture(dataset))
    assert sentence in finding(dataset).message
    assert finding(dataset).episodes == (0,)
    assert sentence in caplog.text


# Invariant 2: spans


def test_frames_between_spans_are_legal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An episode was deleted between two others, and one before them; its frames stayed in the video."""
    clip = Clip(numbers=[900, 901, *range(10), 902, 903, 904, *range(10, 22)])
    dataset = Dataset(write(tmp_path / "set", [10, 12], Placed(clips=[clip], begin=[0.2, 1.5], end=[1.2, 2.7])))
    assert all(has_picture(dataset))
    assert finding(dataset).severity == "note"
    assert "5 frames before or between the spans" in finding(dataset).message
    assert not caplog.records


@pytest.mark.parametrize("end", [1.7, 2.3, 0.0, 2000.0, None])
def test_to_timestamp_is_not_needed(tmp_path: Path, end: float | None) -> None:
    """Spans that are longer, shorter, in milliseconds or without an end, where the video has a frame for each row."""
    dataset = Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[Clip(numbers=range(40))], end=[end, 4.0])))
    assert all(has_picture(dataset))
    if end is None:
        assert dataset.mismatches() == {"front": []}
    else:
        assert f"to_timestamp of episode 0 is {end:g} s, but its 20 rows last until 2 s" in finding(dataset).message


def test_a_span_with_more_frames_than_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The recorder stopped after the last row; LeRobot's converter makes the span as long as the video."""
    clip = Clip(numbers=[*range(20), 900, 901, *range(20, 40)])
    dataset = Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[clip], begin=[0, 2.2], end=[2.2, 4.2])))
    assert all(has_picture(dataset))
    assert finding(dataset).severity == "warning"
    assert "the span of episode 0 holds 22 frames for 20 rows; the last 2 are not used" in finding(dataset).message
    assert "visuomotor data view" in caplog.text


def test_a_span_with_fewer_frames_than_rows(tmp_path: Path) -> None:
    """Frames of the first episode were lost, and its span is as long as what is left: nothing shows which."""
    clip = Clip(numbers=without(range(40), [7, 8]))
    dataset = Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[clip], begin=[0, 1.8], end=[1.8, 3.8])))
    assert has_picture(dataset) == [False] * 20 + [True] * 20
    assert finding(dataset).episodes == (0,)
    text = "the span of episode 0, 0 to 1.8 s, holds 18 frames for 20 rows: which frame belongs to which row"
    assert text in finding(dataset).message
    with pytest.raises(DataError, match=r"file-000.mp4 \(episode 0, frame 3\): the span of episode 0") as caught:
        dataset.frames("front", np.array([3, 25]))
    assert (caught.value.row, caught.value.episode, caught.value.frame) == (3, 0, 3)
    assert [error.episode for error in dataset.check()] == [0]


def test_overlapping_spans(tmp_path: Path) -> None:
    placed = Placed(clips=[Clip(numbers=range(40))], begin=[0, 1.7], end=[2, 3.7])
    text = refusal(Dataset(write(tmp_path / "equal", [20, 20], placed)))
    assert "its spans do not follow the lengths of the episodes: episode 1 begins at 1.7 s by from_timestamp" in text
    assert "and at 2 s (3.0 frames away) by the rows before it" in text
    placed = Placed(clips=[Clip(numbers=range(43))], begin=[0, 1.7], end=[2, 3.7])
    text = refusal(Dataset(write(tmp_path / "other", [20, 20], placed)))
    assert (
        "the span of episode 0 ends at 2 s, but that of episode 1 begins at 1.7 s: 3 frames would belong to both"
        in text
    )
    assert "Correct from_timestamp" in text


def test_exchanged_spans(tmp_path: Path) -> None:
    """Episodes of 30 and 20 rows, each with the span of the other one."""
    placed = Placed(clips=[Clip(numbers=range(50))], begin=[3, 0], end=[5, 3])
    assert "episode 0 begins at 3 s by from_timestamp, and at 2 s (10.0 frames away)" in refusal(
        Dataset(write(tmp_path / "set", [30, 20], placed))
    )


def test_one_moved_span_moves_no_other(tmp_path: Path) -> None:
    placed = Placed(clips=[Clip(numbers=range(60))], begin=[0, 1.7, 3.7], end=[2, 3.7, 5.7])
    dataset = Dataset(write(tmp_path / "set", [20, 20, 20], placed))
    assert "do not follow the lengths" in refusal(dataset)


def test_spans_in_milliseconds(tmp_path: Path) -> None:
    placed = Placed(clips=[Clip(numbers=range(50))], begin=[0, 3000], end=[3000, 5000])
    dataset = Dataset(write(tmp_path / "set", [30, 20], placed))
    assert all(has_picture(dataset))
    assert (
        "episode 1 begins at 3000 s by from_timestamp, but its first frame is shown at 3 s" in finding(dataset).message
    )


@pytest.mark.parametrize("begin", [np.nan, None])
def test_spans_without_a_beginning(tmp_path: Path, begin: float | None) -> None:
    placed = Placed(clips=[Clip(numbers=range(40))], begin=[0, begin])
    text = refusal(Dataset(write(tmp_path / "two", [20, 20], placed)))
    assert "episode 1 begins at nan s by from_timestamp, and at 2 s" in text
    placed = Placed(clips=[Clip(numbers=range(43))], begin=[0, begin])
    text = refusal(Dataset(write(tmp_path / "more", [20, 20], placed)))
    assert "from_timestamp of episode 1 is not a number, and the video has 43 frames for 40 rows" in text
    placed = Placed(clips=[Clip(numbers=range(20))], begin=[begin])
    assert all(has_picture(Dataset(write(tmp_path / "one", [20], placed))))


# Invariant 3: numbers of frames


@pytest.mark.parametrize("missing_rows", [[0, 1], [17, 18], [25], [38, 39]])
def test_frames_lost_without_a_trace(tmp_path: Path, missing_rows: list[int]) -> None:
    """The encoder closed the gap, so the video ends early wherever the frames were lost."""
    clip = Clip(numbers=without(range(40), missing_rows))
    text = refusal(Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[clip]))))
    left, end = len(clip.numbers), len(clip.numbers) / FPS
    assert f"its {left} frames end at {end:g} s, but its episodes, with 40 rows, last until 4 s" in text
    assert f"{len(missing_rows)} frame" in text
    assert "too few, and nothing shows where the loss was" in text
    assert "Copy the video again" in text


@pytest.mark.parametrize("missing_rows", [[0, 1], [17, 18], [20], [19, 20]])
@pytest.mark.parametrize("bframes", ["0", "2"])
def test_frames_lost_where_the_times_show_it(tmp_path: Path, missing_rows: list[int], bframes: str) -> None:
    numbers = without(range(40), missing_rows)
    clip = Clip(numbers=numbers, seconds=np.array(numbers) / FPS, options={"bf": bframes})
    dataset = Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[clip])))
    assert has_picture(dataset) == [row not in missing_rows for row in range(40)]
    first = missing_rows[0] % 20
    errors = dataset.mismatches()["front"]
    assert {mismatch.kind for mismatch in errors} == {"hole"}
    assert f"have no frame within half a frame of their time, first row {first} at {missing_rows[0] / FPS:g} s" in str(
        errors[0]
    )


def test_frames_lost_at_the_end_of_a_video_that_has_times(tmp_path: Path) -> None:
    clip = Clip(numbers=range(38), seconds=np.arange(38) / FPS)
    assert "2 frames too few" in refusal(Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[clip]))))


def test_frames_behind_the_last_span(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[Clip(numbers=range(43))])))
    assert all(has_picture(dataset))
    assert finding(dataset).severity == "warning"
    assert "the last 3 of its 43 frames belong to no episode and are not used" in finding(dataset).message
    assert "the last 3 of its 43 frames" in caplog.text


def test_an_episode_in_another_video_than_the_table_says(tmp_path: Path) -> None:
    placed = Placed(
        clips=[Clip(numbers=range(20)), Clip(numbers=range(20, 40))], files=[0, 0], begin=[0, 0], end=[2, 2]
    )  # fmt: skip
    text = refusal(Dataset(write(tmp_path / "set", [20, 20], placed)))
    assert (
        "the span of episode 0 ends at 2 s, but that of episode 1 begins at 0 s: 20 frames would belong to both" in text
    )
    assert "file_index" in text


def test_exchanged_videos_of_other_lengths(tmp_path: Path) -> None:
    placed = Placed(
        clips=[Clip(numbers=range(30)), Clip(numbers=range(30, 50))], files=[1, 0], begin=[0, 0], end=[3, 2]
    )  # fmt: skip
    dataset = Dataset(write(tmp_path / "set", [30, 20], placed))
    assert not any(has_picture(dataset))
    kinds = {
        mismatch.kind: mismatch.message for mismatch in dataset.mismatches()["front"] if mismatch.severity == "error"
    }
    assert "10 frames too few" in kinds["short"]
    assert (
        "the video has 30 frames for 20 rows, some of them to spare, while file-001.mp4 has too few"
        in kinds["exchanged"]
    )


def test_a_video_index_that_is_null_is_named_when_the_set_is_opened(tmp_path: Path) -> None:
    placed = Placed(clips=[Clip(numbers=range(40))], files=[0, None])
    with pytest.raises(DataError, match=r"\(episode 1\): names no video .*front: .* file_index is None"):
        Dataset(write(tmp_path / "set", [20, 20], placed))

"""Start times, variable and other frame rates, several cameras: each row shows its own picture, or is refused."""

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
    pictures_of_rows,
    refusal,
    without,
    write,
)
from visuomotor.data.lerobot import Dataset

# The clock of the video


@pytest.mark.parametrize("bframes", ["0", "2"])
def test_a_stream_that_starts_late(tmp_path: Path, caplog: pytest.LogCaptureFixture, bframes: str) -> None:
    """from_timestamp counts on the presentation clock, so it should begin where the stream does."""
    clip = Clip(numbers=range(40), seconds=0.5 + np.arange(40) / FPS, options={"bf": bframes})
    honoured = Placed(clips=[clip], begin=[0.5, 2.5], end=[2.5, 4.5])
    dataset = Dataset(write(tmp_path / "honoured", [20, 20], honoured))
    assert all(has_picture(dataset))
    assert dataset.mismatches() == {"front": []}
    assert not caplog.records
    dataset = Dataset(write(tmp_path / "ignored", [20, 20], Placed(clips=[clip])))
    assert all(has_picture(dataset))
    assert finding(dataset).severity == "warning"
    assert (
        "episode 0 begins at 0 s by from_timestamp, but its first frame is shown at 0.5 s" in finding(dataset).message
    )


def test_an_edit_list_that_hides_the_first_frames(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The container holds 43 frames, of which it shows the last 40."""
    clip = Clip(numbers=[900, 901, 902, *range(40)], seconds=(np.arange(43) - 3) / FPS)
    dataset = Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[clip])))
    assert all(has_picture(dataset))
    assert dataset.mismatches() == {"front": []}
    assert not caplog.records


def true_times(rows: int) -> np.ndarray:
    """Capture times of a loop that varies by a third of a step and loses a second in all."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.7, 1.5, rows)) / FPS
    return (times - times[0]).round(4)


@pytest.mark.parametrize("bframes", ["0", "2"])
def test_variable_frame_rate_with_true_stamps(tmp_path: Path, caplog: pytest.LogCaptureFixture, bframes: str) -> None:
    times = true_times(40)
    clip = Clip(numbers=range(40), seconds=times, options={"bf": bframes})
    placed = Placed(clips=[clip], begin=[0, times[20]], end=[times[20], times[-1] + 0.1])
    dataset = Dataset(write(tmp_path / "set", [20, 20], placed, stamps=times - np.repeat(times[[0, 20]], 20)))
    assert all(has_picture(dataset))
    assert not caplog.records


def test_variable_frame_rate_against_other_stamps_is_refused(tmp_path: Path) -> None:
    """By time and by number differ, and the video is no better witness than the stamps."""
    times = np.arange(40) / FPS + 0.15 * np.sin(np.arange(40) * 2 * np.pi / 40)
    placed = Placed(clips=[Clip(numbers=range(40), seconds=times)])
    text = refusal(Dataset(write(tmp_path / "set", [40], placed)))
    assert "time and number name different frames for 32 of 40 rows, up to 1 frame apart: row 3 has frame" in text
    assert "The frame rate of the video is not constant, so neither is certain" in text
    assert "Write the times of the video into timestamp" in text


def test_variable_frame_rate_with_stamps_that_name_no_frame(tmp_path: Path) -> None:
    times = true_times(40)
    placed = Placed(clips=[Clip(numbers=range(40), seconds=times)], end=[times[-1] + 0.1])
    dataset = Dataset(write(tmp_path / "set", [40], placed, stamps=1e3 * times))
    assert all(has_picture(dataset))
    assert finding(dataset).severity == "warning"


# Rates of video and data


@pytest.mark.parametrize("rate", [30, 25, 20])
def test_a_video_faster_than_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture, rate: int) -> None:
    """A camera at its own rate: pictures are numbered by their time in ticks of 1/100 s."""
    clip = Clip(numbers=[round(100 * k / rate) for k in range(4 * rate)], rate=rate)
    dataset = Dataset(write(tmp_path / "set", [20, 20], Placed(clips=[clip])))
    numbers, errors = pictures_of_rows(dataset)
    assert not errors
    assert np.abs(np.array(numbers) - 10 * np.arange(40)).max() <= 50 / rate
    assert finding(dataset).severity == "note"
    assert f"the video shows {rate} frames a second, the data has 10" in finding(dataset).message
    assert not caplog.records


def test_a_video_slower_than_the_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """5 pictures a second for 10 rows a second: rows share them, never with another episode."""
    dataset = Dataset(write(tmp_path / "set", [21, 19], Placed(clips=[Clip(numbers=range(20), rate=5)])))
    numbers, errors = pictures_of_rows(dataset)
    assert not errors
    assert numbers == [k // 2 for k in range(21)] + [11, *(k // 2 for k in range(22, 40))]
    assert finding(dataset).severity == "warning"
    assert "5 frames a second, the data has 10: rows share frames, which are up to 0.1 s away" in caplog.text


@pytest.mark.parametrize("rate", [30, 5])
@pytest.mark.parametrize("spans", ["of the video", "of the data"])
def test_one_frame_for_each_row_at_another_rate(tmp_path: Path, rate: int, spans: str) -> None:
    clock = rate if spans == "of the video" else FPS
    placed = Placed(clips=[Clip(numbers=range(50), rate=rate)], begin=[0, 30 / clock], end=[30 / clock, 50 / clock])
    dataset = Dataset(write(tmp_path / "set", [30, 20], placed))
    assert all(has_picture(dataset))
    assert finding(dataset).severity == "warning"


def test_a_fast_video_that_lost_half_a_second(tmp_path: Path) -> None:
    times = np.delete(np.arange(120) / 30, range(45, 60))
    clip = Clip(numbers=(100 * times).round().astype(int).tolist(), seconds=times)
    dataset = Dataset(write(tmp_path / "set", [40], Placed(clips=[clip])))
    numbers, errors = pictures_of_rows(dataset)
    assert sorted(errors) == [16, 17, 18, 19]
    assert all(abs(number - 10 * row) <= 5 for row, number in enumerate(numbers) if number is not None)


@pytest.mark.parametrize(("frames_lost", "read"), [(1, True), (3, False)])
def test_a_fast_video_that_lost_frames_without_a_trace(tmp_path: Path, frames_lost: int, read: bool) -> None:
    """The span is as long as what is left; up to half a frame of the data is not seen."""
    clip = Clip(numbers=without(range(240), range(30, 30 + frames_lost)), rate=30)
    middle, end = (120 - frames_lost) / 30, (240 - frames_lost) / 30
    dataset = Dataset(write(tmp_path / "set", [40, 40], Placed(clips=[clip], begin=[0, middle], end=[middle, end])))
    numbers, errors = pictures_of_rows(dataset)
    assert sorted(errors) == ([] if read else list(range(40)))
    assert all(abs(number - 3 * row) <= 1.5 for row, number in enumerate(numbers) if number is not None)


def test_a_fast_video_with_a_span_that_is_too_long(tmp_path: Path) -> None:
    clip = Clip(numbers=range(135), rate=30)
    dataset = Dataset(write(tmp_path / "set", [40], Placed(clips=[clip], end=[4.5])))
    assert pictures_of_rows(dataset)[0] == [3 * row for row in range(40)]
    messages = {mismatch.kind: mismatch for mismatch in dataset.mismatches()["front"]}
    assert messages["span end"].severity == "warning"
    assert "to_timestamp of episode 0 is 4.5 s, but its 40 rows last until 4 s" in messages["span end"].message


def test_a_fast_video_with_stamps_that_drift_is_refused(tmp_path: Path) -> None:
    """Neither reading can be shown: three frames for each row, and stamps that end before the span does."""
    clip = Clip(numbers=range(120), rate=30)
    text = refusal(Dataset(write(tmp_path / "set", [40], Placed(clips=[clip]), stamps=frames(40) * 0.95 / FPS)))
    assert "holds 120 frames for 40 rows, and its timestamps drift from frame_index / fps, -2.0" in text


def test_rows_faster_than_fps_with_a_span_that_agrees(tmp_path: Path) -> None:
    """True times of a loop 5 % too fast, beside a camera at 30 frames a second: the span is as long as the stamps."""
    times = np.arange(40) * 0.95 / FPS
    clip = Clip(numbers=[round(100 * k / 30) for k in range(114)], rate=30)
    dataset = Dataset(write(tmp_path / "set", [40], Placed(clips=[clip], end=[3.8]), stamps=times))
    numbers, errors = pictures_of_rows(dataset)
    assert not errors
    assert np.abs(np.array(numbers) - 100 * times).max() <= 2.5


# Several cameras


def test_a_bad_camera_leaves_the_good_one_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cameras = {
        "front": Placed(clips=[Clip(numbers=range(40))]),
        "wrist": Placed(clips=[Clip(numbers=without(range(40), [7]))]),
        "late": Placed(clips=[Clip(numbers=range(40), seconds=0.3 + np.arange(40) / FPS)]),
        "fast": Placed(clips=[Clip(numbers=np.repeat(range(40), 3).tolist(), rate=30)]),
    }
    dataset = Dataset(write(tmp_path / "set", [20, 20], cameras))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["camera wrist", "camera late"]
    for camera in ("front", "late", "fast"):
        assert all(has_picture(dataset, camera))
    assert "1 frame too few" in refusal(dataset, "wrist")
    severities = {camera: [m.severity for m in mismatches] for camera, mismatches in dataset.mismatches().items()}
    assert severities == {"front": [], "wrist": ["error"], "late": ["warning"], "fast": ["note"]}

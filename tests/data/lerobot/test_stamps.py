import numpy as np
import pytest

from visuomotor.data.lerobot.stamps import describe_stamps, is_nominal, stamp_deviation

NUMBERS = np.arange(100)


def test_deviation_counts_frames_over_the_whole_episode() -> None:
    deviation = stamp_deviation(NUMBERS * 0.999 / 10, NUMBERS, 10)
    assert deviation[-1] == pytest.approx(-0.099)
    stamps = NUMBERS / 10
    stamps[5] = np.inf
    assert np.isnan(stamp_deviation(stamps, NUMBERS, 10)).nonzero()[0].tolist() == [5]


def test_float32_stamps_of_twenty_minutes_are_nominal() -> None:
    numbers = np.arange(36_000)
    stamps = (numbers / 30).astype(np.float32).astype(np.float64)
    assert np.abs(stamp_deviation(stamps, numbers, 30)).max() < 0.002
    assert is_nominal(stamps, numbers, 30)
    assert not is_nominal(stamps * 1.00005, numbers, 30)


def test_stamps_follow_frame_index_not_the_row() -> None:
    """Rows were removed at the start and in the middle; what is left keeps its time and its number."""
    numbers = np.array([5, 6, 7, 11, 12])
    assert is_nominal(numbers / 10, numbers, 10)
    assert describe_stamps(numbers / 10, numbers, 10) == ""


@pytest.mark.parametrize(
    ("stamps", "sentence"),
    [
        (NUMBERS / 10 * 1.02, "drift from frame_index / fps, +2.0 frames at frame 99 of 100 (1.02 times as fast)"),
        (NUMBERS / 10 + 2, "begin at 2 s, +20.0 frames from frame_index / fps"),
        (NUMBERS * 100.0, "look like milliseconds: that of frame 99 is 9900"),
        (np.r_[NUMBERS[:50], NUMBERS[50:] - 20] / 10, "run backwards at frame 50, from 4.9 to 3 s"),
        (np.where(NUMBERS < 3, np.nan, NUMBERS / 10), "are not finite in 3 rows, first in frame 0"),
    ],
)
def test_sentences(stamps: np.ndarray, sentence: str) -> None:
    assert describe_stamps(stamps, NUMBERS, 10) == f"its timestamps {sentence}"

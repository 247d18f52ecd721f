import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visuomotor.data.shares import RowDraws, Shares

WEIGHTS = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12)


@given(weights=WEIGHTS, start=st.integers(0, 10**12))
def test_every_window_has_each_source_by_its_share(weights: list[float], start: int) -> None:
    sources, _ = Shares(weights).at(start + np.arange(2000))
    for source, share in enumerate(np.array(weights) / sum(weights)):
        excess = np.concatenate([[0.0], np.cumsum((sources == source) - share)])
        # The largest difference of two prefixes is the largest error of any window.
        assert np.ptp(excess) <= (1.001 if len(weights) < 3 else 3.001)


@given(weights=WEIGHTS, places=st.lists(st.integers(0, 3000), max_size=20))
def test_places_are_found_without_those_before(weights: list[float], places: list[int]) -> None:
    sources, numbers = Shares(weights).at(np.arange(3001))
    one, number = Shares(weights).at(np.array(places, dtype=np.int64))
    assert one.tolist() == sources[places].tolist()
    assert number.tolist() == numbers[places].tolist()
    for source in range(len(weights)):
        assert numbers[sources == source].tolist() == list(range((sources == source).sum()))


def test_row_draws_depend_on_seed_batch_and_row_alone() -> None:
    whole, part = RowDraws(3, 7, 0, 8), RowDraws(3, 7, 5, 8)
    assert (whole.frame[5:].tolist(), whole.goal[5:].tolist()) == (part.frame.tolist(), part.goal.tolist())
    later = part.generator(2).random(4).tolist()
    first = part.generator(0).random(4).tolist()
    part.generator(0).random(dtype=np.float32)  # leaves half a word, which the next row must not get
    assert part.generator(2).random(4).tolist() == later == whole.generator(7).random(4).tolist()
    assert whole.generator(5).random(4).tolist() == first != later


@pytest.mark.parametrize("other", [(4, 7), (3, 8)])
def test_other_batches_have_other_draws(other: tuple[int, int]) -> None:
    assert not set(RowDraws(3, 7, 0, 8).frame) & set(RowDraws(*other, 0, 8).frame)


def test_draws_are_uniform_and_rows_independent() -> None:
    rows = [RowDraws(0, k, 0, 32) for k in range(100)]
    values = np.array([[row.generator(i).random() for i in range(32)] for row in rows])
    for sample in (values, np.array([r.frame for r in rows]), np.array([r.goal for r in rows])):
        assert abs(sample.mean() - 0.5) < 5 * 12**-0.5 / 3200**0.5
        neighbours = np.corrcoef(sample[:, 1:].ravel(), sample[:, :-1].ravel())[0, 1]
        assert abs(neighbours) < 5 / 3100**0.5

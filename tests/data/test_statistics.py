import numpy as np
import pytest

from tests.data.fakes import FakeDataset
from visuomotor.codec import decode, encode
from visuomotor.data.statistics import Statistics, compute_statistics


def test_quantiles_pool_all_frames_of_all_data_sets() -> None:
    a, b = FakeDataset(3, seed=0), FakeDataset(5, seed=1)
    b.columns["action"] = b.columns["action"] * 10
    pooled = np.concatenate([a.columns["action"], b.columns["action"]]).astype(np.float64)
    s = compute_statistics([a, b]).action
    np.testing.assert_allclose(s.q01, np.quantile(pooled, 0.01, axis=0))
    np.testing.assert_allclose(s.q99, np.quantile(pooled, 0.99, axis=0))
    np.testing.assert_allclose(s.mean, pooled.mean(0))
    np.testing.assert_allclose(s.std, pooled.std(0))
    assert s.count == len(pooled)


def test_transformed_chunks_stay_inside_their_episode() -> None:
    dataset = FakeDataset(3)
    seen = []

    def transform(actions: np.ndarray, states: np.ndarray) -> np.ndarray:
        seen.append((actions, states))
        return actions

    s = compute_statistics(dataset, horizon=4, transform=transform)
    expected = sum(sum(min(4, n - i) for i in range(n)) for n in dataset.lengths)
    assert s.action.count == expected == len(seen[0][0])
    first_episode = dataset.lengths[0]
    last_action = dataset.columns["action"][first_episode - 1]
    rows = np.flatnonzero((seen[0][0] == last_action).all(axis=1))
    starts = seen[0][1][rows]
    np.testing.assert_array_equal(starts, dataset.columns["observation.state"][first_episode - 4 : first_episode])


def test_nan_is_named_with_dimension_and_row_or_skipped() -> None:
    dataset = FakeDataset(2)
    dataset.columns["action"][7, 3] = np.nan
    with pytest.raises(ValueError, match=r"action dimension 3 \('joints.j0'\) is nan in row 7 of data set fake-0"):
        compute_statistics(dataset)
    s = compute_statistics(dataset, skip_bad=True)
    assert np.isfinite(s.action.q50).all()


def test_json_round_trip() -> None:
    s = compute_statistics(FakeDataset(2))
    assert decode(Statistics, encode(s)) == s

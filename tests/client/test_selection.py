"""The medoid: what it is robust to, and that it is one of the samples."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from visuomotor_client.selection import medoid


@pytest.mark.parametrize(("metric", "scipy_name"), [("l2", "euclidean"), ("l1", "cityblock"), ("cosine", "cosine")])
def test_it_has_the_least_mean_distance(metric: str, scipy_name: str) -> None:
    samples = np.random.default_rng(0).normal(size=(9, 4, 3))
    flat = samples.reshape(9, -1)
    expected = cdist(flat, flat, scipy_name).mean(1).argmin()
    assert medoid(samples, metric=metric) == expected
    order = np.random.default_rng(1).permutation(9)
    assert order[medoid(samples[order], metric=metric)] == expected


def test_an_outlier_is_never_chosen_and_does_not_move_the_choice() -> None:
    samples = np.array([[0.0], [0.1], [0.2], [50.0]])
    assert medoid(samples) in (1, 2)
    assert medoid(np.append(samples[:3], [[1e9]], axis=0)) == medoid(samples)


def test_between_two_modes_a_mean_falls_and_a_medoid_does_not() -> None:
    samples = np.array([[-1.0]] * 3 + [[1.0]] * 4) + np.linspace(-0.01, 0.01, 7)[:, None]
    assert abs(samples.mean()) < 0.2
    assert samples[medoid(samples)] == pytest.approx(1, abs=0.02)


def test_neighbours_find_the_densest_place() -> None:
    dense, spread = np.array([0.0, 0.01, 0.02]), np.array([1.0, 1.5, 2.0, 2.5, 3.0])
    samples = np.concatenate([dense, spread])[:, None]
    assert samples[medoid(samples)] >= 1
    assert samples[medoid(samples, neighbours=2)] < 0.1


def test_one_sample_is_itself_and_none_is_refused() -> None:
    assert medoid(np.ones((1, 3, 2))) == 0
    for bad in ({"metric": "dtw"}, {"neighbours": 0}):
        with pytest.raises(ValueError, match="medoid"):
            medoid(np.ones((2, 3)), **bad)
    with pytest.raises(ValueError, match="0 samples"):
        medoid(np.ones((0, 3)))

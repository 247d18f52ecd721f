import json
import math

import numpy as np
import pytest
from scipy.stats import norm as normal_distribution

from visuomotor.codec import decode, encode
from visuomotor.data.weighting import (
    WeightingConfig,
    chunk_weight,
    dual_scale,
    phases_of,
    settled,
    trajectory_weight,
)

PLAIN = WeightingConfig()


def weight(changes: list[int], frames: int = 60, **options: object) -> np.ndarray:
    return trajectory_weight([(u, u) for u in changes], frames, WeightingConfig(**options), fps=10.0)  # type: ignore[arg-type]


def closed_form(changes: list[int], frames: int) -> np.ndarray:
    """The specification's formula, a loop over frames and changes."""
    total = [sum(math.exp(-((i - u) ** 2) / (2 * (6 if i <= u else 2) ** 2)) for u in changes) for i in range(frames)]
    return np.array(total) / max(1.0, *total)


def test_one_change_gives_the_published_values_and_ten_positive_frames() -> None:
    w = weight([30])
    assert w[30] == 1
    for offset, value in ((-8, 0.411), (-7, 0.506), (2, 0.607), (3, 0.325)):
        assert w[30 + offset] == pytest.approx(value, abs=5e-4)
    assert (np.flatnonzero(w > PLAIN.threshold) - 30).tolist() == list(range(-7, 3))


@pytest.mark.parametrize("changes", [[0], [59], [0, 59], [30, 33], [30, 31], [10, 40], list(range(5, 50, 4))])
def test_weights_are_the_specification_s_formula(changes: list[int]) -> None:
    w = weight(changes)
    np.testing.assert_allclose(w, closed_form(changes, 60), rtol=1e-12)
    assert 0 <= w.min() <= w.max() <= 1


def test_without_a_change_all_is_zero() -> None:
    for norm in ("max_or_one", "max", "clip", "min_max"):
        assert not weight([], norm=norm).any()
    assert weight([], frames=0).shape == (0,)


def test_norms_agree_on_changes_far_apart_and_differ_on_near_ones() -> None:
    far = [weight([20, 50], frames=90, norm=norm) for norm in ("max_or_one", "max", "clip", "min_max")]
    for other in far[1:]:
        np.testing.assert_allclose(other, far[0], atol=1e-4)
    near = [10, 13, 16, 19, 22, 25]  # their kernels add up to more than 2, and press the change that stands alone down
    assert weight([*near, 70], frames=90)[70] < PLAIN.threshold
    assert weight([*near, 70], frames=90, norm="clip")[70] == pytest.approx(1)
    assert weight([-20, 30], norm="max_or_one").max() == pytest.approx(1)


def test_density_kernels_are_those_of_the_normal_distribution() -> None:
    w = weight([30], kernel="density", norm="max")
    frame = np.arange(60)
    expected = np.where(frame <= 30, normal_distribution.pdf(frame, 30, 6), normal_distribution.pdf(frame, 30, 2))
    np.testing.assert_allclose(w, expected / expected.max(), rtol=1e-12)
    assert w[31] > w[30]  # the jump that makes peaks of 1 the default


def test_sigma_in_seconds_follows_the_rate() -> None:
    np.testing.assert_array_equal(weight([30], sigma_seconds=(0.6, 0.2)), weight([30], sigma=(6.0, 2.0)))


@pytest.mark.parametrize("seed", range(8))
def test_settled_takes_short_runs_out(seed: int) -> None:
    signal = np.random.default_rng(seed).random(40) < 0.5
    runs: list[list[int]] = []  # [value, length]
    for value in signal.tolist():
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    expected: list[bool] = []
    for k, (value, length) in enumerate(runs):
        long_enough = length >= 3 or k in (0, len(runs) - 1)
        expected += [bool(value) if long_enough else expected[-1]] * length
    assert settled(signal, 3).tolist() == expected
    assert settled(signal, 1).tolist() == signal.tolist()


def test_changes_are_the_first_frame_of_the_new_value() -> None:
    signal = np.array([0, 0, 0, 1, 1, 1, 1, 0, 0, 0], dtype=bool)[:, None]
    assert phases_of(signal, PLAIN) == [(3, 3), (7, 7)]
    assert phases_of(signal, WeightingConfig(change_frame="last")) == [(2, 2), (6, 6)]
    assert phases_of(signal, WeightingConfig(covers="phases")) == [(3, 6)]
    assert phases_of(~signal, WeightingConfig(covers="phases")) == [(0, 2), (7, 9)]
    both = np.concatenate([signal, ~signal], axis=1)  # two hands that change at once count once
    assert phases_of(both, PLAIN) == [(3, 3), (7, 7)]


def test_a_release_in_the_last_frame_is_a_change() -> None:
    signal = np.array([1, 1, 1, 1, 1, 0], dtype=bool)[:, None]
    assert phases_of(signal, PLAIN) == [(5, 5)]
    glitch = np.array([1, 1, 1, 0, 1, 1], dtype=bool)[:, None]
    assert phases_of(glitch, PLAIN) == []
    assert phases_of(glitch, WeightingConfig(debounce=1)) == [(3, 3), (4, 4)]


def test_whole_phases_weigh_one_and_fall_off_like_changes() -> None:
    w = trajectory_weight([(20, 30)], 60, WeightingConfig(covers="phases"))
    assert (w[20:31] == 1).all()
    np.testing.assert_array_equal(w[:20], weight([20])[:20])
    np.testing.assert_array_equal(w[31:], weight([30])[31:])


def test_chunk_weights_begin_at_one() -> None:
    w = chunk_weight(16, 0.8)
    assert w[0] == 1
    assert w.sum() == pytest.approx(4.859, abs=5e-4)
    assert w[-1] == pytest.approx(0.035, abs=5e-4)


def test_both_combinations_add_up_to_the_chunk_weight() -> None:
    rng = np.random.default_rng(0)
    trajectory = rng.random((5000, 16)).astype(np.float32)
    chunk = np.broadcast_to(chunk_weight(16, 0.8), trajectory.shape)
    move, mani = dual_scale(trajectory, chunk)
    assert (np.abs(move + mani - chunk) <= np.spacing(chunk)).all()
    np.testing.assert_allclose(move, (1 - trajectory.astype(np.float64)) * chunk, atol=1e-7)
    np.testing.assert_array_equal(mani, trajectory * chunk)
    ends = dual_scale(np.array([0.0, 1.0]), np.array([0.3, 0.3]))
    np.testing.assert_array_equal(ends, [[0.3, 0], [0, 0.3]])


def test_a_configuration_survives_json() -> None:
    for config in (PLAIN, WeightingConfig(sigma_seconds=(1.0, 0.4), signal="contact", covers="phases")):
        assert decode(WeightingConfig, json.loads(json.dumps(encode(config)))) == config


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kernel": "density"}, "peaks below 1"),
        ({"signal": "speeed"}, "Did you mean 'speed'"),
        ({"sigma": (6.0, 0.0)}, "above 0"),
        ({"gamma": 0.0}, "gamma is 0"),
        ({"debounce": 0}, "debounce 0"),
    ],
)
def test_contradictions_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        WeightingConfig(**options)

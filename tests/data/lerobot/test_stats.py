import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from visuomotor.data.lerobot.stats import ImageHistogram, numeric_stats, sample_frames


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 255))
def test_image_statistics_equal_numpy_on_all_pixels(seed: int, length: int, high: int) -> None:
    frames = np.random.default_rng(seed).integers(0, high + 1, (length, 6, 8, 3), np.uint8)
    histogram = ImageHistogram()
    for half in np.array_split(frames, 2):
        part = ImageHistogram()
        part.add(half)
        histogram.merge(part)
    stats = {k: np.array(v).ravel() for k, v in histogram.stats().items()}
    pixels = frames.reshape(-1, 3) / 255
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats[name], getattr(pixels, name)(axis=0), atol=1e-7)
    for name, q in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        np.testing.assert_allclose(stats[name], np.quantile(pixels, q, axis=0, method="inverted_cdf"), atol=1e-9)
    assert stats["count"].tolist() == [length]


def test_large_images_are_thinned_out() -> None:
    histogram = ImageHistogram()
    histogram.add(np.zeros((1, 600, 301, 3), np.uint8))
    assert histogram.counts.sum() == 3 * 150 * 76


def test_sampled_frames_span_the_episode() -> None:
    assert sample_frames(1).tolist() == [0]
    assert sample_frames(4).tolist() == [0, 1, 2, 3]
    picks = sample_frames(100)
    assert (picks[0], picks[-1], len(picks)) == (0, 99, 10)


def test_scalars_and_booleans_have_one_value_each() -> None:
    stats = numeric_stats(np.array([True, False, False, True]))
    assert (stats["mean"], stats["min"], stats["max"], stats["count"]) == ([0.5], [0.0], [1.0], [4])

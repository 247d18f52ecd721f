import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from visuomotor.text.action_tokens import BINS, decode_bins, encode_bins


@given(arrays(np.float64, (3, 7), elements=st.floats(-1, 1)))
def test_round_trip_errs_by_half_a_bin(actions: np.ndarray) -> None:
    assert np.abs(decode_bins(encode_bins(actions)) - actions).max() <= 1 / 254 + 1e-6


def test_ends_and_clipping() -> None:
    np.testing.assert_array_equal(encode_bins(np.array([-1.0, 0.0, 1.0, -9.0, 9.0])), [0, 127, 254, 0, 254])


def test_every_bin_survives() -> None:
    bins = np.arange(BINS)
    np.testing.assert_array_equal(encode_bins(decode_bins(bins)), bins)

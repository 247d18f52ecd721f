"""Keep-out boxes: the nearest free place and the free share of a way, against brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from visuomotor_client.workspace import free_share, nearest_free

LOW, HIGH = np.full(3, -1.0), np.full(3, 1.0)
# Micrometres: at 1e-38 beside a face, the test's own interpolation rounds into the box.
places = st.tuples(*[st.floats(-1.2, 1.2)] * 3).map(lambda place: np.round(place, 6))
boxes = st.tuples(places, st.tuples(*[st.floats(0.05, 0.8)] * 3).map(np.array)).map(
    lambda b: (b[0] - b[1], b[0] + b[1])
)


def inside(points: np.ndarray, keep_out: list) -> np.ndarray:
    return np.any([((points > low) & (points < high)).all(-1) for low, high in keep_out], axis=0)


@given(places, st.lists(boxes, min_size=1, max_size=3))
def test_the_nearest_free_place_is_free_and_nearer_than_any_other(point: np.ndarray, keep_out: list) -> None:
    found = nearest_free(point, LOW, HIGH, keep_out)
    tried = np.random.default_rng(0).uniform(-1, 1, (3000, 3))
    tried = tried[~inside(tried, keep_out)]
    if found is None:
        assert not len(tried)
        return
    assert (found >= LOW).all()
    assert (found <= HIGH).all()
    assert not inside(found, keep_out)
    clipped = np.clip(point, LOW, HIGH)
    if len(tried):
        assert np.linalg.norm(found - clipped) <= np.linalg.norm(tried - clipped, axis=1).min() + 1e-9
    if not inside(clipped, keep_out):
        assert (found == clipped).all()


@given(places, places, st.lists(boxes, min_size=1, max_size=3))
def test_the_free_share_ends_at_the_first_box(start: np.ndarray, end: np.ndarray, keep_out: list) -> None:
    share = free_share(start, end, keep_out)
    shares = np.linspace(0, 1, 400)
    blocked = inside(start + shares[:, None] * (end - start), keep_out)
    assert not blocked[shares < share - 1e-9].any()
    if share < 1 and (end != start).any():
        behind = np.minimum(share + np.array([1e-9, 1e-8, 1e-7, 1e-6]), 1)  # the path may leave a box at once again
        assert inside(start + behind[:, None] * (end - start), keep_out).any() or not blocked.any()


def test_along_a_face_nothing_is_in_the_way() -> None:
    box = [(np.zeros(3), np.ones(3))]
    assert free_share(np.array([0.0, 0.5, 0.5]), np.array([-1.0, 0.5, 0.5]), box) == 1
    assert free_share(np.array([0.0, -1.0, 0.5]), np.array([0.0, 2.0, 0.5]), box) == 1
    assert free_share(np.array([0.0, 0.5, 0.5]), np.array([0.5, 0.5, 0.5]), box) == 0
    assert free_share(np.array([-1.0, 0.5, 0.5]), np.array([1.0, 0.5, 0.5]), box) == pytest.approx(0.5)

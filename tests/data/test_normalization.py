import dataclasses
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fakes import FakeDataset, embodiment
from visuomotor.data.normalization import Units, normalizer, reference_change
from visuomotor.data.statistics import VectorStatistics, compute_statistics, vector_statistics
from visuomotor.embodiment import Component


def component(normalization: str, **options: object) -> Component:
    return Component(
        name="tool", dims=("x",), kind="other", unit="m", normalization=normalization, **options  # type: ignore[arg-type]
    )  # fmt: skip


def statistics(*values: float) -> VectorStatistics:
    return vector_statistics([np.array(values)])


def test_each_normalisation_follows_its_formula() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 2.0, 1000)
    s = vector_statistics([x])
    q01, q99 = np.quantile(x, [0.01, 0.99])
    column = x[:, None]
    quantile = normalizer((component("quantile"),), s, 1, "action").apply(column)
    np.testing.assert_allclose(quantile[:, 0], 2 * (x - q01) / (q99 - q01 + 1e-6) - 1, atol=1e-6)
    mean_std = normalizer((component("mean_std"),), s, 1, "action").apply(column)
    np.testing.assert_allclose(mean_std[:, 0], (x - x.mean()) / (x.std() + 1e-6), atol=1e-6)
    limits = normalizer((component("limits", low=(-2.0,), high=(6.0,)),), s, 1, "action").apply(
        np.array([[-2.0], [6.0]])
    )
    np.testing.assert_allclose(limits[:, 0], [-1, 1])
    np.testing.assert_allclose(normalizer((component("none"),), s, 1, "action").apply(column)[:, 0], x, rtol=1e-6)


def test_whole_vectors_may_be_normalised_as_dexvla_does() -> None:
    """Published statistics: limits 0.0001 wider than the data's, deviations of at least 0.01."""
    x = np.stack([np.linspace(-3.0, 5.0, 9), np.full(9, 0.7)], axis=1)
    parts = (component("none"), replace(component("limits", low=(0.0,), high=(1.0,)), name="other"))
    s = vector_statistics([x[:, 0], x[:, 1]])
    low, high = x.min(0) - 1e-4, x.max(0) + 1e-4
    affine = normalizer(parts, s, 3, "action", method="min_max")
    np.testing.assert_allclose(affine.apply(x)[:, :2], 2 * (x - low) / (high - low) - 1, atol=1e-5)
    np.testing.assert_allclose(affine.invert(affine.apply(x)), x, atol=1e-6)
    scored = normalizer(parts, s, 3, "state", method="z_score").apply(x)
    np.testing.assert_allclose(scored[:, :2], (x - x.mean(0)) / x.std(0).clip(1e-2), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=6, max_size=6), st.sampled_from(["quantile", "mean_std", "none"]))
def test_inverse_and_zero_padding(values: list[float], kind: str) -> None:
    robot = embodiment()
    parts = tuple(dataclasses.replace(c, normalization=kind) for c in robot.state)  # type: ignore[arg-type]
    affine = normalizer(parts, compute_statistics(FakeDataset(3)).state, 9, "state")
    x = np.array(values, dtype=np.float32)
    y = affine.apply(x)
    assert y.shape == (9,)
    assert (y[6:] == 0).all()
    np.testing.assert_allclose(affine.invert(y), x, atol=1e-4)


def test_near_constant_dimensions_are_reported_and_not_stretched(caplog: pytest.LogCaptureFixture) -> None:
    s = statistics(0.5, 0.5 + 1e-9, 0.5 - 1e-9, 0.5)
    with caplog.at_level(logging.WARNING):
        state = normalizer((component("quantile"),), s, 1, "state")
    assert "tool.x" in caplog.text
    assert abs(state.apply(np.array([0.5 + 1e-8]))[0]) < 1e-6
    assert abs(state.apply(np.array([1.5]))[0]) == pytest.approx(1.0)
    action = normalizer((component("mean_std"),), s, 1, "action")
    assert abs(action.invert(np.array([0.3]))[0] - 0.5) < 1e-4  # model noise on a constant stays invisible


def test_a_rare_switch_keeps_its_range() -> None:
    values = [-1.0] * 999 + [1.0]
    affine = normalizer((component("quantile"),), statistics(*values), 1, "action")
    np.testing.assert_allclose(affine.apply(np.array([[-1.0], [1.0]]))[:, 0], [-1, 1], atol=1e-5)


def test_too_narrow_a_model_is_refused() -> None:
    with pytest.raises(ValueError, match="state has 6 dimensions but the model takes 4"):
        normalizer(embodiment().state, compute_statistics(FakeDataset(2)).state, 4, "state")
    with pytest.raises(ValueError, match="no low and high"):
        normalizer((component("limits"),), statistics(1, 2), 1, "action")


def units(width: int = 8) -> Units:
    robot = embodiment()
    s = compute_statistics(FakeDataset(3))
    return Units(
        state=normalizer(robot.state, s.state, width, "state"),
        action=normalizer(robot.action, s.action, width, "action"),
        reference=reference_change(robot, {}),
    )


def test_chunk_start_subtracts_the_state_except_for_grippers_and_wraps_angles() -> None:
    change = reference_change(embodiment(), {})
    assert change is not None
    state = np.array([1.0, 2.0, 3.0, 3.0, 0.0, 0.05])
    actions = np.array([[1.5, 2.0, 2.0, -3.0, 0.5, 1.0]])
    expected = [[0.5, 0.0, -1.0, 2 * math.pi - 6.0, 0.5, 1.0]]
    np.testing.assert_allclose(change.apply(actions, state), expected)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-3, 3), min_size=6, max_size=6),
    st.lists(st.floats(-3, 3), min_size=6, max_size=6),
)
def test_reference_and_normalisation_invert(action: list[float], state: list[float]) -> None:
    both = units()
    a, s = np.tile(np.array(action, dtype=np.float64), (4, 1)), np.array(state, dtype=np.float64)
    back = both.robot_actions(both.model_actions(a, s), s)
    np.testing.assert_allclose(back, a, atol=1e-4)


def test_chunk_start_needs_the_matching_state() -> None:
    robot = embodiment()
    renamed = dataclasses.replace(robot, state=(dataclasses.replace(robot.state[0], name="tcp"), *robot.state[1:]))
    with pytest.raises(ValueError, match=r"state component of action 'position'.*state_of=\{'position'"):
        reference_change(renamed, {})
    assert reference_change(renamed, {"position": "tcp"}) is not None


def test_chunk_start_refuses_quaternions() -> None:
    quaternion = Component(
        name="turn", dims=("x", "y", "z", "w"), kind="rotation", unit="1", rotation="quat_xyzw"
    )  # fmt: skip
    robot = dataclasses.replace(embodiment(), action=(quaternion,), state=(quaternion,))
    with pytest.raises(ValueError, match="differences of its numbers mean nothing"):
        reference_change(robot, {})


def test_published_rules_stretch_everything_and_never_wrap() -> None:
    part = component("quantile")
    s = statistics(0.5, 0.5)
    affine = normalizer((part,), s, 1, "action", near_constant=0)
    np.testing.assert_allclose(affine.apply(np.array([[0.5], [0.5 + 5e-7]]))[:, 0], [-1.0, 0.0], atol=1e-6)
    change = reference_change(embodiment(), {}, wrap=False)
    assert change is not None
    state = np.array([1.0, 2.0, 3.0, 3.0, 0.0, 0.05])
    actions = np.array([[1.5, 2.0, 2.0, -3.0, 0.5, 1.0]])
    np.testing.assert_allclose(change.apply(actions, state), [[0.5, 0.0, -1.0, -6.0, 0.5, 1.0]])
    np.testing.assert_allclose(change.invert(change.apply(actions, state), state), actions)

import numpy as np
import pytest

from visuomotor.contract import Episode
from visuomotor.data.open_x import absolute_gripper, bridge, fractal, settled_gripper


def episode(frames: int = 6, width: int = 7) -> Episode:
    rng = np.random.default_rng(0)
    return Episode(
        instruction="pick up the can",
        state=rng.normal(size=(frames, 7)).astype(np.float32),
        actions=rng.uniform(size=(frames, width)).astype(np.float32),
        images={"image": np.arange(frames, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)},
    )


@pytest.mark.parametrize(
    ("closing", "targets"),
    [
        ([0, 0, 1, 0, 0, -1, 0], [1, 1, 0, 0, 0, 1, 1]),
        ([0, -1, 0, 1], [0, 1, 1, 0]),  # before the first command the gripper was in the other state
        ([1, 0, 0], [0, 0, 0]),
        ([0.05, -0.05, 0], [1, 1, 1]),  # nothing but noise: open
        ([0, 0.6, 0.05, -0.3], [1, 0, 0, 1]),
    ],
)
def test_relative_commands_are_carried_on(closing: list[float], targets: list[float]) -> None:
    np.testing.assert_array_equal(absolute_gripper(np.array(closing, np.float32)), targets)


@pytest.mark.parametrize(
    ("opening", "targets"),
    [
        ([1.0, 0.8, 0.3, 0.0, 0.0, 0.5, 0.97], [1, 0, 0, 0, 0, 1, 1]),
        ([0.5, 0.96], [1, 1]),
        ([1.0, 0.95, 0.05, 0.04], [1, 0, 0, 0]),  # the limits themselves are not yet settled
        ([0.0, 0.5, 0.6], [0, 0.6, 0.6]),  # it never arrives
        ([], []),
    ],
)
def test_a_moving_gripper_has_the_state_it_will_reach(opening: list[float], targets: list[float]) -> None:
    np.testing.assert_allclose(settled_gripper(np.array(opening, np.float32)), targets)


def test_fractal_changes_the_gripper_alone() -> None:
    given = episode()
    given.actions[:, 6] = [0, 1, 0, 0, -1, 0]
    found = fractal(given)
    np.testing.assert_array_equal(found.actions[:, :6], given.actions[:, :6])
    np.testing.assert_array_equal(found.actions[:, 6], [1, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(given.actions[:, 6], [0, 1, 0, 0, -1, 0])  # the original is left alone


def test_bridge_moves_as_its_states_did() -> None:
    given = episode()
    given.actions[:, 6] = [0.5, 1.0, 0.7, 0.0, 0.0, 1.0]
    found = bridge(given)
    assert found.images["image"][:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(found.state, given.state[1:5])
    # Carrying out the actions from the first state leads through all states to that of the frame left out.
    reached = found.state[0, :6] + np.cumsum(found.actions[:, :6], axis=0)
    np.testing.assert_allclose(reached, given.state[2:6, :6], atol=1e-6)
    np.testing.assert_array_equal(found.actions[:, 6], [1, 0, 0, 0])


def test_what_does_not_fit_is_refused() -> None:
    for transform in (fractal, bridge):
        with pytest.raises(ValueError, match=r"Actions are \[6, 8\]"):
            transform(episode(width=8))
    with pytest.raises(ValueError, match="at least 3 frames"):
        bridge(episode(frames=2))

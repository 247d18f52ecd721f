"""The shortcut past the safety filter says yes only where the filter changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import SafetyFilter

from tests.serving.fakes import ROBOT
from visuomotor.embodiment import Component
from visuomotor.serving.service import passes

POSE = (
    Component(name="place", dims=("x", "y", "z"), kind="position", unit="m", low=(-1, -1, 0), high=(1, 1, 1)),
    Component(name="turn", dims=("rx", "ry", "rz"), kind="rotation", unit="rad", rotation="axis_angle"),
    Component(name="gripper", dims=("width",), kind="gripper", unit="m", opened=1.0, closed=0.0, low=(0,), high=(1,)),
)


@pytest.mark.parametrize("reference", ["absolute", "step", "chunk_start"])
def test_the_shortcut_agrees_with_the_filter(reference: str) -> None:
    action = tuple(replace(part, reference=reference) for part in POSE[:2]) + POSE[2:]  # type: ignore[arg-type]
    robot = replace(ROBOT, state=POSE, action=action)
    rng = np.random.default_rng(0)
    answers = []
    for _ in range(60):
        state = rng.uniform(-0.2, 1.0, 7).astype(np.float32)
        actions = rng.uniform(0, rng.choice([0.05, 0.2, 1.1]), (4, 7)).astype(np.float32)
        safety = SafetyFilter(robot)
        answers.append(passes(safety, actions, state))
        sent = safety.chunk(actions, state)
        if answers[-1]:
            np.testing.assert_array_equal(np.array(sent), actions)
            assert not safety.counts
    assert 0.1 < np.mean(answers) < 0.9


def test_differences_of_a_chunk_are_followed_to_where_they_lead() -> None:
    """Ten steps of 0.1 towards a keep-out box 0.35 away, and the robot's edge: they go on until there, then stop."""
    robot = replace(ROBOT, state=POSE, action=(replace(POSE[0], reference="step"), *POSE[2:]))
    actions = np.tile(np.array([0.1, 0, 0, 1], np.float32), (10, 1))
    box = SafetyLimits(keep_out=(((0.35, -1, -1), (2, 1, 2)),))
    for limits, far in ((box, 0.35), (SafetyLimits(), 1.0), (SafetyLimits(step_length=0.05), 0.5)):
        safety, state = SafetyFilter(robot, limits), np.array([0.0 if far < 1 else 0.25, 0, 0.5, 0, 0, 0, 0.5])
        assert not passes(safety, actions, state)
        sent = np.array(safety.chunk(actions, state))
        assert state[0] + sent[:, 0].sum() == pytest.approx(far, abs=1e-5)
        assert (sent[:, 0] >= -1e-6).all()
        assert (sent[:, 3] == 1).all()
        assert "state" not in safety.counts


def test_there_is_no_shortcut_past_further_limits_and_quaternions() -> None:
    zeros, state = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    assert passes(SafetyFilter(ROBOT), zeros, state)
    assert not passes(SafetyFilter(ROBOT, SafetyLimits(velocity=9.0)), zeros, state)
    turn = Component(name="turn", dims=("x", "y", "z", "w"), kind="rotation", unit="1", rotation="quat_xyzw")
    robot = replace(ROBOT, state=(turn,), action=(turn,))
    assert not passes(SafetyFilter(robot), np.zeros((2, 4), np.float32), np.zeros(4, np.float32))


def test_the_shortcut_compares_a_grippers_place_in_the_units_of_its_commands() -> None:
    """Places from -1 to 1 were compared with the 0 to 80 mm that the state measures."""
    width = Component(
        name="hand", dims=("w",), kind="gripper", unit="mm", low=(0,), high=(80,), opened=80.0, closed=0.0
    )
    command = Component(
        name="hand", dims=("w",), kind="gripper", unit="command", opened=1.0, closed=-1.0, reference="chunk_start"
    )
    robot = replace(ROBOT, state=(width,), action=(command,))
    safety, state = SafetyFilter(robot), np.array([20.0], np.float32)  # 20 mm are -0.5
    assert not passes(safety, np.array([[1.9]], np.float32), state)
    assert passes(safety, np.array([[-0.4]], np.float32), state)

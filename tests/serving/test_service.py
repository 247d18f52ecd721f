"""The shortcut past the safety filter says yes only where the filter changes nothing."""

from dataclasses import replace

import numpy as np
import pytest

from tests.serving.fakes import ROBOT
from visuomotor.embodiment import Component
from visuomotor.execution.safety import SafetyFilter, SafetyLimits
from visuomotor.serving.service import _filtered, passes

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
        state = rng.uniform(-0.5, 1.2, 7).astype(np.float32)
        actions = rng.uniform(0, rng.choice([0.2, 0.6, 1.1]), (4, 7)).astype(np.float32)
        safety = SafetyFilter(robot)
        answers.append(passes(safety, actions, state))
        sent = _filtered(safety, actions, state)
        if answers[-1]:
            np.testing.assert_array_equal(np.array(sent), actions)
            assert not safety.counts
    assert 0.1 < np.mean(answers) < 0.9


def test_there_is_no_shortcut_past_further_limits_and_quaternions() -> None:
    zeros, state = np.zeros((2, 2), np.float32), np.zeros(2, np.float32)
    assert passes(SafetyFilter(ROBOT), zeros, state)
    assert not passes(SafetyFilter(ROBOT, SafetyLimits(velocity=9.0)), zeros, state)
    turn = Component(name="turn", dims=("x", "y", "z", "w"), kind="rotation", unit="1", rotation="quat_xyzw")
    robot = replace(ROBOT, state=(turn,), action=(turn,))
    assert not passes(SafetyFilter(robot), np.zeros((2, 4), np.float32), np.zeros(4, np.float32))

"""Joint limits of published robots: they fit components, reach the safety filter, and leave stated limits alone."""

import math

import numpy as np
import pytest
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import SafetyFilter

from visuomotor.embodiment import Component
from visuomotor.joint_limits import JOINT_LIMITS
from visuomotor.models.dm0.robots import ROBOTS


def arm(size: int, **other: object) -> Component:
    dims = tuple(f"joint_{i}" for i in range(size))
    return Component(name="arm", dims=dims, kind="joint", unit="rad", **other)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(JOINT_LIMITS))
def test_ranges_are_ranges_and_have_a_source(name: str) -> None:
    limits = JOINT_LIMITS[name]
    component = limits.applied(arm(len(limits.low)))
    assert component.low is not None
    assert component.high is not None
    assert all(low < high for low, high in zip(component.low, component.high, strict=True))
    assert all(abs(value) <= 2 * math.pi + 0.01 for value in (*component.low, *component.high))
    package, version = limits.source.split()[:2]
    assert package
    assert version[0].isdigit()


def test_stated_limits_stay_and_other_components_are_refused() -> None:
    limits = JOINT_LIMITS["piper"]
    own = limits.applied(arm(6, low=(-1.0,) * 6))
    assert own.low == (-1.0,) * 6
    assert own.high == limits.high
    with pytest.raises(ValueError, match="Limits of 6 joints in rad do not fit component 'arm': 7 dimensions"):
        limits.applied(arm(7))


def test_published_joints_are_limited_by_default_and_explicit_limits_come_first() -> None:
    robot = ROBOTS["aloha"]
    state = np.array([0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.05] * 2)
    far = np.array([9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 0.05] * 2)
    sent = SafetyFilter(robot).apply(far, state)
    assert sent is not None
    np.testing.assert_allclose(sent[:6] - state[:6], 0.3, atol=1e-6)  # 3 rad/s at 10 Hz
    sent = SafetyFilter(robot, SafetyLimits(velocity=100.0)).apply(far, state)
    assert sent is not None
    np.testing.assert_allclose(sent[:6], [2.6179, 3.14, 0.0, 1.745, 1.22, 3.14159], rtol=1e-6)


def test_missing_limits_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    SafetyFilter(ROBOTS["aloha"]).log_missing()
    assert "no limit for left_arm: acceleration; left_gripper: position, gripper_rate; right_arm" in caplog.text
    caplog.clear()
    SafetyFilter(ROBOTS["franka"]).log_missing()
    assert "position: position, step_length; rotation: step_angle; gripper: position, gripper_rate" in caplog.text


def test_a_velocity_is_a_positive_number_for_each_dimension() -> None:
    with pytest.raises(ValueError, match="2 dimensions but 1 values in velocity"):
        arm(2, velocity=(1.0,))
    with pytest.raises(ValueError, match="finite numbers above 0"):
        arm(2, velocity=(1.0, 0.0))

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from visuomotor.models.cogact.simpler import SimplerActions, StickyGripper, rotation_vector


def test_rotations_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    for rpy in (*rng.uniform(-np.pi, np.pi, (50, 3)), *rng.uniform(-1e-3, 1e-3, (10, 3)), np.zeros(3)):
        expected = Rotation.from_euler("xyz", rpy).as_rotvec()
        np.testing.assert_allclose(rotation_vector(rpy), expected, atol=1e-9)


def run(targets: list[float], steps: int = 10) -> list[float]:
    gripper = StickyGripper(steps)
    return [gripper.command(target) for target in targets]


def test_a_change_lasts_ten_steps() -> None:
    assert run([1, 1, *[0] * 14]) == [0, 0, *[1] * 10, *[0] * 4]
    assert run([0, *[1] * 14]) == [0, *[-1] * 10, *[0] * 4]


def test_no_command_begins_while_one_lasts() -> None:
    # Closing lasts; the target that opened again meanwhile is a change from where the last command was given.
    assert run([1, 0, 1, 1, 1], steps=3) == [0, 1, 1, 1, -1]
    assert run([1, 0, 1, 0, 0], steps=3) == [0, 1, 1, 1, 0]


def test_small_changes_add_up_until_they_trigger() -> None:
    found = run([1.0, 0.8, 0.6, 0.4, 0.4, 0.4, 0.4], steps=3)
    np.testing.assert_allclose(found, [0, 0.2, 0.4, 0.6, 0.6, 0.6, 0], atol=1e-9)


def test_each_robot_gets_its_own_commands() -> None:
    action = np.array([0.01, 0.02, 0.03, 0.1, -0.2, 0.3, 1.0])
    turned = Rotation.from_euler("xyz", action[3:6]).as_rotvec()
    widowx, google = SimplerActions("widowx"), SimplerActions("google_robot")
    for robot, gripper in ((widowx, 1.0), (google, 0.0)):
        np.testing.assert_allclose(robot(action), [0.01, 0.02, 0.03, *turned, gripper], atol=1e-6)
    for value, sent in ((0.51, 1.0), (0.5, -1.0), (0.0, -1.0)):
        assert widowx(np.append(action[:6], value))[6] == sent
    closing = np.append(action[:6], 0.0)
    assert google(closing)[6] == 1.0
    google.reset()
    assert google(closing)[6] == 0.0  # an episode begins with the gripper where it is
    with pytest.raises(ValueError, match=r"An action is \[6\]"):
        widowx(action[:6])
    with pytest.raises(ValueError, match="no robot 'franka'"):
        SimplerActions("franka")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1 step"):
        StickyGripper(0)

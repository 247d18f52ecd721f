"""Every robot's numbers, both ways, against scipy's rotations; and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from tests.serving.robochallenge.fakes import ROBOTS, poses_of_two_arms
from visuomotor.serving.robochallenge.conventions import (
    Convention,
    Layout,
    euler_from_quaternion,
    quaternion_from_euler,
)

ANGLES = hnp.arrays(np.float64, (5, 3), elements=st.floats(-9, 9))
ARM = [0.3, -0.1, 0.25]


@given(euler=ANGLES)
@settings(max_examples=50, deadline=None)
def test_quaternions_are_scipys_and_do_not_jump(euler: np.ndarray) -> None:
    walk = np.cumsum(euler / 9, axis=0)
    quaternions = quaternion_from_euler(walk)
    turned = Rotation.from_euler("xyz", walk).inv() * Rotation.from_quat(quaternions)
    np.testing.assert_allclose(turned.magnitude(), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(quaternions, axis=1), 1)
    assert ((quaternions[1:] * quaternions[:-1]).sum(1) >= -1e-9).all()
    back = Rotation.from_euler("xyz", euler_from_quaternion(-quaternions))
    np.testing.assert_allclose((turned * back.inv() * Rotation.from_euler("xyz", walk)).magnitude(), 0, atol=1e-5)


@pytest.mark.parametrize(
    ("robot", "generation", "wire", "model", "absolute"),
    [
        ("aloha", 1, [*([0.1] * 6), 0.05, *([0.2] * 6), 0.02], [*([0.1] * 6), 0.05, *([0.2] * 6), 0.02], (6, 13)),
        ("arx5", 1, [*ARM, 0.1, -0.2, 3.1, 0.05], [*ARM, 0.1, -0.2, 3.1, 0.05], (6,)),
        ("franka", 1, [*ARM, 1, 0, 0, 0, 0.05], [*ARM, np.pi, 0, 0, 0.05], (6,)),
        ("ur5", 1, [*ARM, 0.1, -0.2, 3.1, 228], [*ARM, 0.1, -0.2, 3.1, 228], (6,)),
        ("ur5", 1, [*ARM, 0, 0, np.sqrt(0.5), np.sqrt(0.5), 3], [*ARM, 0, 0, np.pi / 2, 3], (6,)),
        ("arx5", 2, [*ARM, 0, np.sqrt(0.5), 0, -np.sqrt(0.5), 0.1], None, (6,)),
        ("ur5", 2, [*ARM, 0, 0, 0, 1, 100], [*ARM, 0, 0, 0, 100], (6,)),
        ("aloha", 2, [*ARM, 0, 0, 0, 1, 0.1, *ARM, 1, 0, 0, 0, 0], [*ARM, 0, 0, 0, 0.1, *ARM, np.pi, 0, 0, 0], (6, 13)),
    ],
)
def test_each_robots_numbers(robot: str, generation: int, wire: Any, model: Any, absolute: tuple[int, ...]) -> None:
    embodiment = poses_of_two_arms() if (robot, generation) == ("aloha", 2) else ROBOTS[robot]
    layout = Layout(Convention(robot=robot, generation=generation), embodiment)
    assert layout.absolute_dims == absolute
    state = layout.state(wire)
    if model is not None:
        np.testing.assert_allclose(state, model, atol=1e-6)
    sent = layout.actions(np.stack([state, state]), wire)
    assert sent.shape == (2, len(wire))
    arms = np.array(sent[0]).reshape(2 if robot == "aloha" else 1, -1)
    for arm, original in zip(arms, np.array(wire).reshape(len(arms), -1), strict=True):
        if arm.shape == (8,):  # q and -q are one rotation
            assert abs(arm[3:7] @ original[3:7]) == pytest.approx(1, abs=1e-6)
            arm, original = np.delete(arm, range(3, 7)), np.delete(original, range(3, 7))
        np.testing.assert_allclose(arm, original, atol=1e-6)


def test_action_types_are_those_of_the_table() -> None:
    types = {(robot, g): Convention(robot=robot, generation=g).type for robot in ROBOTS for g in (1, 2)}
    assert types[("aloha", 1)] == "joint"
    assert types[("aloha", 2)] == "pos"
    assert {t for (robot, _), t in types.items() if robot != "aloha"} == {"leftpos"}


def test_angles_go_on_steadily_beyond_pi() -> None:
    layout = Layout(Convention(robot="arx5"), ROBOTS["arx5"])
    wire = [*ARM, 0, 0, 3.1, 0.05]
    chunk = np.tile(np.array(wire), (3, 1))
    chunk[:, 5] = [3.1, -3.1, -3.0]
    np.testing.assert_allclose(layout.actions(chunk, wire)[:, 5], [3.1, 2 * np.pi - 3.1, 2 * np.pi - 3.0])


def test_stretching_keeps_both_ends_and_goes_straight() -> None:
    layout = Layout(Convention(robot="arx5", generation=2), ROBOTS["arx5"])
    wire = [*ARM, 0, 0, 0, 1, 0.05]
    chunk = np.tile(layout.state(wire), (3, 1)).astype(np.float64)
    chunk[:, 0], chunk[:, 5] = [0.0, 0.1, 0.2], [0.0, 0.5, 1.0]
    sent = layout.actions(chunk, wire, stretch=2)
    np.testing.assert_allclose(sent[:, 0], np.linspace(0, 0.2, 6))
    turned = Rotation.from_quat(sent[:, 3:7]).as_rotvec()[:, 2]
    np.testing.assert_allclose(turned, np.linspace(0, 1, 6), atol=1e-9)


def test_differences_to_the_chunks_start_are_added_but_not_for_grippers() -> None:
    robot = ROBOTS["franka"]
    relative = tuple(c if c.kind == "gripper" else replace(c, reference="chunk_start") for c in robot.action)
    layout = Layout(Convention(robot="franka"), replace(robot, action=relative))
    wire = [*ARM, 0, 0, 0, 1, 0.08]
    sent = layout.actions(np.array([[0.01, 0, 0, 0, 0, 0.2, 0.004]]), wire)
    np.testing.assert_allclose(sent[0, [0, 1, 2, 7]], [ARM[0] + 0.01, ARM[1], ARM[2], 0.004], atol=1e-6)
    np.testing.assert_allclose(Rotation.from_quat(sent[0, 3:7]).as_rotvec(), [0, 0, 0.2], atol=1e-6)
    whole = tuple(replace(c, reference="chunk_start") for c in robot.action)
    with pytest.raises(ValueError, match=r"'gripper'.*reference 'chunk_start'; the robot takes absolute"):
        Layout(Convention(robot="franka"), replace(robot, action=whole))
    steps = tuple(c if c.kind == "gripper" else replace(c, reference="step") for c in robot.action)
    with pytest.raises(ValueError, match="reference 'step'"):
        Layout(Convention(robot="franka"), replace(robot, action=steps))


def test_a_policy_of_quaternions_meets_a_robot_of_angles() -> None:
    robot = ROBOTS["arx5"]
    turn = replace(robot.state[1], dims=tuple("xyzw"), rotation="quat_xyzw")
    parts = (robot.state[0], turn, robot.state[2])
    layout = Layout(Convention(robot="arx5"), replace(robot, state=parts, action=parts))
    wire = [*ARM, 0.1, 0.2, 0.3, 0.05]
    state = layout.state(wire)
    np.testing.assert_allclose(Rotation.from_quat(state[3:7]).as_euler("xyz"), wire[3:6], atol=1e-6)
    np.testing.assert_allclose(layout.actions(state[None] * [1, 1, 1, 2, 2, 2, 2, 1], wire)[0], wire, atol=1e-6)
    with pytest.raises(ValueError, match="near zero"):
        layout.actions(np.zeros((1, 8)), wire)


@pytest.mark.parametrize("robot", ROBOTS)
def test_cameras_of_both_generations(robot: str) -> None:
    first, second = (Layout(Convention(robot=robot, generation=1), ROBOTS[robot]).cameras, CAMERAS_2[robot])
    assert first == {name: name for name in first}
    embodiment = poses_of_two_arms() if robot == "aloha" else ROBOTS[robot]
    assert Layout(Convention(robot=robot, generation=2), embodiment).cameras == second
    renamed = tuple(replace(c, name=second[c.name]) for c in ROBOTS[robot].cameras)
    back = Layout(Convention(robot=robot), replace(ROBOTS[robot], cameras=renamed)).cameras
    assert back == {new: old for old, new in second.items()}


CAMERAS_2 = {
    "aloha": {"high": "cam_high", "left_hand": "cam_left_wrist", "right_hand": "cam_right_wrist"},
    "arx5": {"right_hand": "cam_global", "high": "cam_side", "left_hand": "cam_arm"},
    "franka": {"right_hand": "cam_global", "high": "cam_side", "left_hand": "cam_arm"},
    "ur5": {"right_hand": "cam_global", "left_hand": "cam_arm"},
}


def test_an_unknown_camera_must_be_named() -> None:
    front = replace(ROBOTS["ur5"], cameras=(replace(ROBOTS["ur5"].cameras[0], name="front"),))
    with pytest.raises(ValueError, match="'front' is none of ur5's, which are right_hand, left_hand"):
        Layout(Convention(robot="ur5"), front)
    assert Layout(Convention(robot="ur5"), front, {"front": "left_hand"}).cameras == {"front": "left_hand"}


@pytest.mark.parametrize(
    ("robot", "wire"),
    [
        ("arx5", [0.0] * 8), ("franka", [0.0] * 7), ("ur5", [0.0] * 6), ("aloha", [0.0] * 7),
        ("arx5", [0, 0, 0, 0, 0, np.nan, 0]), ("franka", [0, 0, 0, 0, 0, 0, 0, 0.1]),
    ],
)  # fmt: skip
def test_states_of_another_length_or_kind_are_refused(robot: str, wire: list[float]) -> None:
    with pytest.raises(ValueError, match=r"must be .* finite numbers|unit quaternion"):
        Layout(Convention(robot=robot), ROBOTS[robot]).state(wire)


def test_a_policy_for_another_robot_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'aloha' has the state components .* arx5 with action_type 'leftpos' needs"):
        Layout(Convention(robot="arx5"), ROBOTS["aloha"])
    with pytest.raises(ValueError, match=r"joint and gripper|position and rotation and gripper"):
        Layout(Convention(robot="aloha", generation=2), ROBOTS["aloha"])
    degrees = tuple(replace(c, unit="deg") if c.kind == "rotation" else c for c in ROBOTS["arx5"].state)
    with pytest.raises(ValueError, match="in 'deg'; the robot's numbers are in rad"):
        Layout(Convention(robot="arx5"), replace(ROBOTS["arx5"], state=degrees))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"robot": "ur3"}, "Did you mean 'ur5'"),
        ({"robot": "ur5", "generation": 3}, "generations 1 and 2"),
        ({"robot": "ur5", "action_type": "pos"}, "'pos' does not fit ur5"),
        ({"robot": "aloha", "action_type": "leftjoint"}, "does not fit aloha"),
        ({"robot": "ur5", "action_type": "leftpose"}, "Did you mean 'leftpos'"),
    ],
)
def test_contradictions_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Convention(**given)

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from visuomotor.simulation.rendering import mujoco
from visuomotor.simulation.tabletop.arm import WORKSPACE_HIGH, WORKSPACE_LOW, rotation_matrix, rotation_vector


@pytest.mark.parametrize("vector", [[0, 0, 0], [0.3, -0.2, 0.5], [0, 0, -1.5], [1e-9, 0, 0], [2.0, 1.0, -1.0]])
def test_rotation_conversions_agree_with_scipy(vector) -> None:
    matrix = Rotation.from_rotvec(vector).as_matrix()
    np.testing.assert_allclose(rotation_matrix(np.array(vector, float)), matrix, atol=1e-9)
    np.testing.assert_allclose(rotation_vector(matrix), vector, atol=1e-7)


def test_inverse_kinematics_reaches_every_corner_of_the_workspace(env) -> None:
    rng = np.random.default_rng(0)
    corners = np.array(np.meshgrid(*zip(WORKSPACE_LOW, WORKSPACE_HIGH, strict=True))).reshape(3, -1).T
    for position in [*corners, *rng.uniform(WORKSPACE_LOW, WORKSPACE_HIGH, (20, 3))]:
        turn = np.array([0.0, 0.0, rng.uniform(-0.8, 0.8)])
        env._arm.place(env.scene.data, position, turn)
        mujoco.mj_forward(env.scene.model, env.scene.data)
        reached, rotation, opening = env._arm.measured(env.scene.data)
        np.testing.assert_allclose(reached, position, atol=1e-3)
        np.testing.assert_allclose(rotation, turn, atol=1e-2)
        assert opening == pytest.approx(1.0)


def test_the_target_does_not_run_away_from_a_blocked_arm(env, start) -> None:
    start(env, "press_button()", 0)
    push_down = np.array([0, 0, -0.03, 0, 0, 0, -1.0])
    for _ in range(30):
        env.step(push_down)
    low = env.state()[2]
    env.step(-push_down * [1, 1, 1, 1, 1, 1, -1])
    env.step(-push_down * [1, 1, 1, 1, 1, 1, -1])
    assert env.state()[2] > low + 0.02


@pytest.mark.parametrize("shape", ["block", "disc", "cup", "can", "bar"])
def test_a_held_object_stays_in_the_fingers_through_quick_moves(env, start, shape) -> None:
    goal = start(env, f"lift(red {shape})", 3)
    expert = env.expert(np.random.default_rng(0))
    while not env.step(expert.act())[2]:
        pass
    rng = np.random.default_rng(1)
    for _ in range(15):
        target = rng.uniform([-0.15, -0.15, 0.12], [0.15, 0.1, 0.25])
        for _ in range(4):
            step = np.clip(target - env.state()[:3], -0.03, 0.03)
            env.step(np.array([*step, 0, 0, 0, -1.0]))
    assert env.scene.holding(goal)


def test_an_object_two_centimetres_off_the_fingers_middle_is_grasped(env, start) -> None:
    for offset in (-0.018, 0.018):
        goal = start(env, "lift(red block)", 3)
        at = env.scene.position(goal) + np.array([offset, 0, 0.0])
        for height, steps in ((0.09, 12), (0.02, 5)):
            for _ in range(steps):
                step = np.clip(at + np.array([0, 0, height - at[2]]) - env.state()[:3], -0.03, 0.03)
                env.step(np.array([*step, 0, 0, 0, 1.0]))
        for lift in (0, 0, 0, 0.03, 0.03, 0.03):
            env.step(np.array([0, 0, lift, 0, 0, 0, -1.0]))
        assert env.scene.holding(goal)
        assert env.scene.bottom(goal) > 0.05

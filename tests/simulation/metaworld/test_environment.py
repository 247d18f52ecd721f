import numpy as np
import pytest

from visuomotor.contract import Scenario
from visuomotor.simulation.metaworld.environment import MetaWorldEnvironment


def start(task: str, seed: int = 0) -> dict[str, Scenario]:
    return {"scenario": Scenario(environment="metaworld", task=task, seed=seed)}


def test_a_start_depends_on_its_seed_only(env):
    env.reset(options=start("pick-place", 5))
    first = env.expert_observation.copy()
    env.step(np.ones(4, np.float32))
    np.random.seed(0)  # noqa: NPY002 the global state that must not matter
    env.reset(options=start("pick-place", 6))
    assert not np.array_equal(first, env.expert_observation)
    np.random.seed(1)  # noqa: NPY002
    env.reset(options=start("pick-place", 5))
    assert np.array_equal(first, env.expert_observation)
    fresh = MetaWorldEnvironment()
    fresh.reset(options=start("pick-place", 5))
    assert np.array_equal(first, fresh.expert_observation)


def test_reset_without_a_scenario_draws_one_of_its_tasks():
    environment = MetaWorldEnvironment(tasks="drawer-open,drawer-close")
    drawn = set()
    for seed in range(8):
        state, info = environment.reset(seed=seed)
        drawn.add(environment.task)
        assert state.shape == (4,)
        assert not info["success"]
        assert info["instruction"]
    assert drawn == {"drawer-open", "drawer-close"}


def test_state_shows_the_arm_and_nothing_else(env):
    states = [env.reset(options=start("drawer-open", seed))[0] for seed in range(3)]
    assert np.allclose(states[0], states[1], atol=1e-6)
    assert np.allclose(states[0], states[2], atol=1e-6)


def test_one_action_unit_is_a_centimetre_per_physics_step():
    for repeat in (1, 4):
        environment = MetaWorldEnvironment(action_repeat=repeat)
        environment.reset(options=start("reach", 0))
        before = environment.inner.data.mocap_pos[0].copy()
        environment.step(np.array([0.5, 0, 0, -1], np.float32))
        assert np.allclose(environment.inner.data.mocap_pos[0] - before, [0.005 * repeat, 0, 0], atol=1e-9)
        assert environment.embodiment.control_hz == 80 / repeat
        assert environment.embodiment.action[0].unit == f"{0.01 * repeat:g} m"


def test_gripper_minus_one_opens_and_plus_one_closes(env):
    gripper = env.embodiment.action[1]
    openings = {}
    for effort in (gripper.opened, gripper.closed):
        env.reset(options=start("reach"))
        for _ in range(15):
            state, *_ = env.step(np.array([0, 0, 0, effort], np.float32))
        openings[effort] = state[3]
    assert openings[-1.0] > openings[1.0] + 0.2


def test_pictures_are_upright_and_show_no_goal(env):
    env.reset(options=start("drawer-open"))
    pictures = env.images()
    assert {name: p.shape for name, p in pictures.items()} == {"corner2": (64, 64, 3), "gripperPOV": (64, 64, 3)}
    scene = pictures["corner2"].astype(int)
    top, bottom = scene[:8, 24:].mean((0, 1)), scene[-8:, 24:].mean((0, 1))
    assert np.ptp(top) < 12
    assert bottom[0] > bottom[2] + 15
    env.inner.model.site("goal").pos[:] += 0.1
    assert np.array_equal(env.images(["corner2"])["corner2"], pictures["corner2"])
    assert not env.inner.model.site_rgba[:, 3].any()


def test_a_moved_object_is_drawn_where_it_is(env):
    """Meta-World moves bodies without recomputing poses; the first picture must not lag behind."""
    env.reset(options=start("drawer-open", 1))
    before = env.images()["corner2"]
    poses = env.inner.data.geom_xpos.copy()
    import mujoco

    mujoco.mj_forward(env.inner.model, env.inner.data)  # pyright: ignore[reportAttributeAccessIssue]
    assert np.array_equal(poses, env.inner.data.geom_xpos)
    assert np.array_equal(before, env.images()["corner2"])


def test_truncates_at_max_steps():
    environment = MetaWorldEnvironment(max_steps=3)
    environment.reset(options=start("reach"))
    ends = [environment.step(np.zeros(4, np.float32))[2:4] for _ in range(5)]
    assert ends == [(False, False), (False, False), *[(False, True)] * 3], "told, and not refused: play goes on"


@pytest.mark.parametrize("action", [np.full(4, np.nan), np.zeros(7), np.array([0, 0, np.inf, 0])])
def test_bad_actions_are_refused(env, action):
    env.reset(options=start("reach"))
    with pytest.raises(ValueError, match="4 finite numbers"):
        env.step(action)


def test_misuse_is_explained(env):
    env.reset(options=start("reach"))
    with pytest.raises(ValueError, match="Unknown camera 'front'"):
        env.images(["front"])
    with pytest.raises(RuntimeError, match="call reset first"):
        MetaWorldEnvironment().step(np.zeros(4))
    with pytest.raises(ValueError, match="at least 1"):
        MetaWorldEnvironment(action_repeat=0)
    broken = MetaWorldEnvironment(render_quality="pretty")
    broken.reset(options=start("reach"))
    with pytest.raises(ValueError, match="render quality"):
        broken.images()

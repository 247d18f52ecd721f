import hashlib
import subprocess
import sys

import numpy as np
import pytest

from visuomotor.contract import Scenario
from visuomotor.simulation.interface import make_environment, make_scenarios
from visuomotor.simulation.tabletop import EMBODIMENT

ROLLOUT = """
import hashlib, numpy as np
from visuomotor.simulation.tabletop import TabletopEnvironment
from visuomotor.contract import Scenario
varied = dict(lighting=True, background=True, camera_pose=True, object_yaw=True)
env = TabletopEnvironment(vocabulary="full", distractors=2, **varied)
digest = hashlib.sha256()
for seed in (3, 4):
    env.reset(options={"scenario": Scenario(environment="tabletop", task="put_in(red cup, left bowl)", seed=seed)})
    expert = env.expert(np.random.default_rng(seed))
    for _ in range(25):
        digest.update(env.step(expert.act())[0].tobytes())
    for image in env.images().values():
        digest.update(image.tobytes())
env.close()
digest = digest.hexdigest()
"""


def test_the_world_has_the_interface_of_worlds() -> None:
    env = make_environment("tabletop", render_quality="fast", cameras_px=32)
    (scenario,) = make_scenarios("tabletop", "train", 1, 0)
    state, info = env.reset(options={"scenario": scenario})
    assert state.shape == (EMBODIMENT.state_dim,)
    assert state.dtype == np.float32
    assert info["success"] is False
    assert info["instruction"] == scenario.instruction == env.instruction
    env.action_space.seed(0)
    action = env.action_space.sample()
    assert env.action_space.contains(action)
    assert env.observation_space.contains(env.step(action)[0])
    images = env.observe().images
    assert {name: image.shape for name, image in images.items()} == {"scene": (32, 32, 3), "wrist": (32, 32, 3)}
    assert all(image.dtype == np.uint8 and image.std() > 5 for image in images.values())
    env.close()
    env.close()


def test_same_scenario_is_bitwise_the_same_in_this_and_in_other_processes() -> None:
    found: dict[str, str] = {}
    exec(ROLLOUT, found)
    other = subprocess.run(
        [sys.executable, "-c", ROLLOUT + "\nprint(digest)"], capture_output=True, text=True, check=True
    )
    assert found["digest"] == other.stdout.strip()


def test_what_happened_before_a_reset_does_not_matter(env, start) -> None:
    def look() -> str:
        start(env, "lift(blue disc)", 7)
        return hashlib.sha256(env.state().tobytes() + env.images()["scene"].tobytes()).hexdigest()

    first = look()
    start(env, "put_in(cyan bar, drawer)", 1, lighting=True, background=True, camera_pose=True)
    for _ in range(5):
        env.step(np.array([0.03, 0, -0.03, 0, 0, 0.1, -1]))
    env.shuffle(np.random.default_rng(0))
    assert look() == first


@pytest.mark.parametrize("axis", range(3))
def test_translation_moves_the_end_effector_by_the_given_distance(env, start, axis) -> None:
    start(env, "lift(red block)", 2)
    before, action = env.state().copy(), np.array([0, 0, 0, 0, 0, 0, 1.0])
    action[axis] = -0.02
    for _ in range(2):
        env.step(action)
    env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    moved = env.state()[:3] - before[:3]
    assert moved[axis] == pytest.approx(-0.04, abs=0.002)
    assert np.abs(np.delete(moved, axis)).max() < 0.002


def test_rotation_turns_the_end_effector_about_the_vertical(env, start) -> None:
    start(env, "lift(red block)", 2)
    for _ in range(3):
        env.step(np.array([0, 0, 0, 0, 0, 0.1, 1.0]))
    env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    np.testing.assert_allclose(env.state()[3:6], [0, 0, 0.3], atol=0.02)


def test_gripper_opens_and_closes(env, start) -> None:
    start(env, "lift(red block)", 2)
    for command, opening in ((-1.0, 0.0), (1.0, 1.0)):
        for _ in range(4):
            env.step(np.array([0, 0, 0, 0, 0, 0, command]))
        assert env.state()[6] == pytest.approx(opening, abs=0.06)


def test_actions_beyond_the_limits_are_clipped(env, start) -> None:
    states = []
    for scale in (1.0, 50.0):
        start(env, "lift(red block)", 2)
        states.append(env.step(np.array([0.03, -0.03, 0, 0, 0, 0.2, 1.0]) * scale)[0])
    np.testing.assert_array_equal(states[0], states[1])


@pytest.mark.parametrize("bad", [np.zeros(6), np.full(7, np.nan), np.array([0, 0, 0, 0, 0, 0, np.inf])])
def test_bad_actions_are_refused(env, start, bad) -> None:
    start(env, "lift(red block)", 2)
    with pytest.raises(ValueError, match="finite action of shape"):
        env.step(bad)


def test_state_stays_within_the_embodiments_limits_under_random_actions(env, start) -> None:
    start(env, "lift(red block)", 5)
    rng = np.random.default_rng(0)
    low = np.array([v for c in EMBODIMENT.state for v in c.low or ()])
    high = np.array([v for c in EMBODIMENT.state for v in c.high or ()])
    for k in range(60):
        action = rng.uniform(-1, 1, 7) * np.array([0.03, 0.03, 0.03, 0.2, 0.2, 0.2, 1.0]) * (1 + k % 3)
        state = env.step(action)[0]
        assert np.isfinite(state).all()
        assert (state >= low - 0.08).all()
        assert (state <= high + 0.08).all()


def test_episode_is_truncated_at_max_steps() -> None:
    env = make_environment("tabletop", max_steps=3)
    env.reset(seed=1)
    ends = [env.step(np.zeros(7))[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_the_scenarios_sentence_replaces_only_the_sentence(env) -> None:
    words = "press the button"
    made = Scenario(environment="tabletop", task="lift(red block)", seed=3, instruction=words)
    env.reset(options={"scenario": made})
    assert env.instruction == words
    assert env.task.relation == "lift"


def test_random_start_depends_on_the_seed_only(env) -> None:
    first, again, other = (env.reset(seed=s)[0].copy() for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unknown_options_and_cameras_are_refused(env, start) -> None:
    with pytest.raises(ValueError, match="Unknown tabletop option 'lightning'"):
        make_environment("tabletop", lightning=True)
    with pytest.raises(ValueError, match="no camera 'front'"):
        env.images(["front"])
    with pytest.raises(ValueError, match="make it with distractors=5"):
        start(env, "lift(red block)", 0, distractors=5)

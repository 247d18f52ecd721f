"""One recorded episode in this process: labels stay clean under noise, annotations, staging, option routing."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from visuomotor.contract import Component, Scenario
from visuomotor.simulation.options import split_options
from visuomotor.simulation.recording import ActionNoise, record_demonstration, record_scenes
from visuomotor.simulation.staging import Staging, Video

SUCCEEDS = Scenario(environment="fake", task="a", seed=0, options={"number": 0})
FAILS = Scenario(environment="fake", task="a", seed=1, options={"number": 1})


@pytest.fixture(scope="module")
def world() -> Iterator[Any]:
    sys.path.insert(0, str(Path(__file__).parent))
    import fake_world

    yield fake_world
    sys.path.remove(str(Path(__file__).parent))


def expert_action(world: Any, goal: np.ndarray, position: np.ndarray) -> np.ndarray:
    return world.FakeExpert(SimpleNamespace(goal=goal, position=position)).act()


def test_recorded_actions_are_the_experts_answer_to_the_recorded_state(world: Any) -> None:
    env, disturbed = world.make(), []
    for seed in range(10):
        episode = record_demonstration(world.WORLD, env, SUCCEEDS, 0.5, seed)
        assert episode is not None
        executed = np.stack(env.executed)
        wanted = np.stack([expert_action(world, env.goal, state) for state in episode.state])
        np.testing.assert_allclose(episode.actions, wanted, atol=1e-6)
        np.testing.assert_allclose(np.diff(episode.state, axis=0), executed[:-1, :2], atol=1e-6)
        disturbed.append(np.abs(executed - episode.actions)[:, :2].max(1) > 1e-3)
    assert 0.05 < np.concatenate(disturbed).mean() < 0.5


def test_without_noise_the_executed_action_is_the_recorded_one(world: Any) -> None:
    env = world.make()
    episode = record_demonstration(world.WORLD, env, SUCCEEDS, 0.0, 0)
    assert episode is not None
    np.testing.assert_array_equal(np.stack(env.executed), episode.actions)


def test_noise_comes_in_bursts_of_the_asked_size_within_the_limits(world: Any) -> None:
    noise = ActionNoise(world.EMBODIMENT, 0.25, np.random.default_rng(0))
    clean = np.array([0.0, 0.09, -1.0], np.float32)
    offsets = np.stack([noise(clean) for _ in range(20_000)]) - clean
    assert not offsets[:, 2].any(), "the gripper is never disturbed"
    assert offsets[:, 1].max() <= 0.01 + 1e-6, "the limit 0.1 holds"
    active = offsets[:, 0] != 0
    assert abs(offsets[active, 0].std() - 0.25 * 0.1) < 0.002
    lengths = np.diff(np.flatnonzero(np.diff(offsets[:, 0]) != 0))
    assert active.any()
    assert 0.15 < active.mean() < 0.4
    assert np.median(lengths) >= 2


def test_noise_needs_limits(world: Any) -> None:
    free = Component(name="twist", dims=("x",), kind="velocity", unit="m/s")
    with pytest.raises(ValueError, match="component 'twist' of embodiment 'fake_point' has none"):
        ActionNoise(replace(world.EMBODIMENT, action=(free,)), 0.1, np.random.default_rng(0))


def test_a_failure_is_no_episode(world: Any) -> None:
    assert record_demonstration(world.WORLD, world.make(), FAILS, 0.0, 0) is None


def test_subtask_and_gripper_switch_come_from_the_expert(world: Any) -> None:
    episode = record_demonstration(world.WORLD, world.make(), SUCCEEDS, 0.0, 0)
    assert episode is not None
    subtasks = [annotation.subtask for annotation in episode.annotations]
    switches = [annotation.gripper_switch for annotation in episode.annotations]
    change = subtasks.index("near")
    assert 0 < change < len(subtasks) - 1
    assert subtasks == ["far"] * change + ["near"] * (len(subtasks) - change)
    assert [i for i, switched in enumerate(switches) if switched] == [change]
    assert len(episode.annotations) == len(episode.actions) == len(episode.images["top"])


def test_scenes_are_the_same_for_the_same_seed(world: Any) -> None:
    env = world.make()
    episode = record_scenes(world.WORLD, env, SUCCEEDS, 5, 0)
    again = record_scenes(world.WORLD, env, SUCCEEDS, 5, 0)
    np.testing.assert_array_equal(episode.state, again.state)


def test_without_an_annotator_a_demonstration_has_no_annotations(world: Any) -> None:
    bare = replace(world.WORLD, annotator=None)
    whole, episode = (record_demonstration(w, world.make(), SUCCEEDS, 0.0, 0) for w in (world.WORLD, bare))
    assert whole is not None
    assert episode is not None
    assert (len(whole.annotations), episode.annotations) == (len(whole.actions), ())
    np.testing.assert_array_equal(episode.actions, whole.actions)


def test_staging_gives_back_what_it_was_given(world: Any, tmp_path: Path) -> None:
    episode = record_demonstration(world.WORLD, world.make(), SUCCEEDS, 0.3, 0)
    assert episode is not None
    noisy = np.random.default_rng(0).integers(0, 256, (len(episode.actions), 16, 16, 3), np.uint8)
    episode = replace(episode, images={"top": noisy})
    staging = Staging(tmp_path / "s")
    staging.create({"seed": 0})
    attempt = staging.write(4, SUCCEEDS, episode)
    staging.write(5, FAILS, None)
    assert staging.attempts() == {4: attempt, 5: replace(attempt, index=5, scenario=FAILS, success=False, frames=0)}
    found, videos = staging.read(4)
    np.testing.assert_array_equal(found.images["top"], noisy)
    np.testing.assert_array_equal(found.actions, episode.actions)
    assert (found.annotations, found.info, videos) == (episode.annotations, episode.info, {})
    assert staging.write(4, SUCCEEDS, episode, Video(fps=10, codec="h264")) == attempt, "a second copy is dropped"
    staging.remove()
    assert (staging.plan(), staging.root.exists()) == ({}, False)


def test_staged_videos_leave_no_images(world: Any, tmp_path: Path) -> None:
    episode = record_demonstration(world.WORLD, world.make(), SUCCEEDS, 0.0, 0)
    staging = Staging(tmp_path / "s")
    staging.create({"seed": 0})
    staging.write(0, SUCCEEDS, episode, Video(fps=10, codec="h264"))
    found, videos = staging.read(0)
    assert not found.images
    assert sorted(videos) == ["side", "top"]
    assert all(path.stat().st_size > 0 for path in videos.values())


def test_options_go_where_they_are_known() -> None:
    def make(*, cameras_px: int = 128, vocabulary: str = "small", **variation: Any) -> None: ...

    def scenarios(split: str, count: int, seed: int, vocabulary: str = "small", tasks: Any = None) -> None: ...

    options = {"vocabulary": "full", "tasks": ["push"], "lighting": 2, "cameras_px": 64}
    for_make, for_scenarios = split_options(make, scenarios, options)
    assert for_make == {"vocabulary": "full", "lighting": 2, "cameras_px": 64}
    assert for_scenarios == {"vocabulary": "full", "tasks": ["push"]}

import numpy as np
import pytest

from visuomotor.contract import Scenario
from visuomotor.simulation.metaworld.environment import MetaWorldEnvironment
from visuomotor.simulation.metaworld.pairs import PAIRS
from visuomotor.simulation.metaworld.tasks import PAIR_TASKS, TASKS


def demonstrate(env: MetaWorldEnvironment, task: str, seed: int, noise: float = 0.0) -> tuple[bool, list[str]]:
    env.reset(options={"scenario": Scenario(environment="metaworld", task=task, seed=seed)})
    assert not env.success, "solved at the start"
    draw = np.random.default_rng(seed)
    expert, subtasks, progress = env.expert(draw), [], []
    for _ in range(env.max_steps):
        action = expert.act()
        assert action.dtype == np.float32
        assert np.abs(action).max() <= 1
        if expert.subtask not in subtasks[-1:]:
            subtasks.append(expert.subtask)
        action[:3] += noise * draw.normal(size=3)
        _, _, terminated, _, info = env.step(action)
        progress.append(info["progress"])
        if terminated:
            assert progress[-1] == 1.0
            assert max(progress[:-1], default=0) <= 0.95
            assert min(progress) >= 0
            return True, subtasks
    return False, subtasks


@pytest.mark.parametrize("task", PAIR_TASKS)
def test_both_sides_of_a_pair_can_be_done_also_when_disturbed(env, task):
    assert demonstrate(env, task, 0)[0]
    assert demonstrate(env, task, 1, noise=0.3)[0]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.tasks[0])
def test_both_sides_of_a_pair_start_alike(env, pair):
    seen = []
    for task in pair.tasks:
        env.reset(options={"scenario": Scenario(environment="metaworld", task=f"pair:{task}", seed=4)})
        seen.append((env.state(), env.images()))
    assert np.array_equal(seen[0][0], seen[1][0])
    for camera in seen[0][1]:
        assert np.array_equal(seen[0][1][camera], seen[1][1][camera])


def test_doing_one_side_of_a_pair_does_not_solve_the_other(env):
    """The start is between the two goals: the drawer's handle must move in opposite directions."""
    ends = {}
    for task in ("drawer-open", "drawer-close"):
        demonstrate(env, f"pair:{task}", 2)
        ends[task] = float(env.inner.data.joint("goal_slidey").qpos[0])
    assert ends["drawer-open"] < -0.075 - 0.05
    assert ends["drawer-close"] > -0.075 + 0.02


@pytest.mark.parametrize("task", ["reach", "button-press-topdown", "pick-place", "drawer-open"])
def test_experts_of_the_benchmark(env, task):
    done, subtasks = demonstrate(env, task, 0)
    phases = [phase for phase in (TASKS[task].reach, TASKS[task].grasp, TASKS[task].act) if phase]
    assert done
    assert set(subtasks) <= set(phases)
    assert subtasks[0] == phases[0]
    assert subtasks[-1] == phases[-1]


def test_grasping_experts_name_the_grasp(env):
    _, subtasks = demonstrate(env, "pick-place", 0)
    assert subtasks == ["reach the puck", "grasp the puck", "carry the puck to the goal"]


def test_style_varies_with_the_generator_only(env):
    def first_action(seed: int) -> np.ndarray:
        env.reset(options={"scenario": Scenario(environment="metaworld", task="reach", seed=0)})
        return env.expert(np.random.default_rng(seed)).act()

    assert np.array_equal(first_action(0), first_action(0))
    assert not np.array_equal(first_action(0), first_action(1))

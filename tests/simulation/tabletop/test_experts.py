from dataclasses import replace

import numpy as np
import pytest

from visuomotor.simulation.tabletop import scenarios
from visuomotor.simulation.tabletop.grammar import subtasks

KINDS = [
    "lift(red block)",
    "lift(green bar)",
    "put_in(blue disc, left bowl)",
    "put_in(yellow cup, right bowl)",
    "put_in(white can, drawer)",
    "push(green cup, left)",
    "push(red disc, right)",
    "push_behind(red block, blue cup)",
    "push_beside(green disc, yellow block)",
    "put_on(blue block, red disc)",
    "open_drawer()",
    "close_drawer()",
    "press_button()",
    "sequence(open_drawer(); put_in(yellow block, drawer); close_drawer())",
]


def rollout(env, seed: int, noise: float = 0.0, disturb=None) -> tuple[dict, list[str]]:
    rng = np.random.default_rng(seed)
    expert, said = env.expert(rng), []
    for step in range(env.max_steps):
        action = expert.act().astype(float)
        said.append(expert.subtask)
        action[:3] += rng.normal(0, noise, 3)
        if disturb is not None:
            disturb(step)
        *_, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    return info, said


@pytest.mark.parametrize("task", KINDS)
def test_expert_does_every_relation(env, start, task) -> None:
    start(env, task, 11)
    info, said = rollout(env, 0)
    assert info["success"], info
    assert info["progress"] == 1.0
    assert set(info["stages"].values()) == {1.0}
    assert set(said) <= set(subtasks(env.task))
    order = list(dict.fromkeys(said))
    assert order == sorted(order, key=subtasks(env.task).index)


@pytest.mark.parametrize("seed", range(2))
def test_expert_succeeds_under_action_noise(env, seed) -> None:
    made = scenarios("train", 5, 100 + seed)
    for k, scenario in enumerate(made):
        env.reset(options={"scenario": scenario})
        assert rollout(env, k, noise=0.008)[0]["success"], scenario


def test_expert_succeeds_from_anywhere(env) -> None:
    for k, scenario in enumerate(scenarios("train", 8, 300)):
        env.reset(options={"scenario": replace(scenario, options={**scenario.options, "anywhere": 1.0})})
        assert rollout(env, k)[0]["success"], scenario


def test_expert_recovers_when_the_object_is_taken_out_of_its_fingers(env, start) -> None:
    goal = start(env, "put_in(red block, left bowl)", 4)
    taken = []

    def disturb(step: int) -> None:
        if not taken and env.scene.holding(goal) and env.scene.bottom(goal) > 0.03:
            address = env.scene.model.joint(f"object{goal}").qposadr[0]
            env.scene.data.qpos[address : address + 3] = [0.10, -0.12, 0.03]
            env.scene.data.qvel[:] = 0
            taken.append(step)

    info, said = rollout(env, 0, disturb=disturb)
    assert taken
    assert info["success"], info
    assert "reach for the red block" in said[taken[0] + 1 :]


def test_experts_differ_in_style_only_by_their_generator(env, start) -> None:
    start(env, "lift(red block)", 4)
    first, again, other = (env.expert(np.random.default_rng(s)).act() for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)

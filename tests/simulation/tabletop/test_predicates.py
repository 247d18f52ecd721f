import numpy as np
import pytest

from visuomotor.simulation.rendering import mujoco
from visuomotor.simulation.tabletop.predicates import HOLD_STEPS, TaskMonitor, done, failed, stages
from visuomotor.simulation.tabletop.state import set_pose


@pytest.fixture
def put(env):
    """put(slot, position): move an object there and look at the new state."""

    def move(slot: int, position) -> None:
        set_pose(env.scene.model, env.scene.data, slot, np.asarray(position, float))
        mujoco.mj_forward(env.scene.model, env.scene.data)

    return move


def standing(env, slot: int) -> float:
    return env.scene.objects[slot].geometry.half_height


@pytest.mark.parametrize(("bowl", "other"), [("left bowl", "right bowl"), ("right bowl", "left bowl")])
def test_in_a_bowl_means_inside_low_and_released(env, start, put, bowl, other) -> None:
    goal = start(env, f"put_in(red block, {bowl})", 1)
    assert not done(env.scene, env.task)
    inside = env.scene.place(bowl) + np.array([0, 0, standing(env, goal) + 0.006])
    put(goal, inside)
    assert done(env.scene, env.task)
    assert set(stages(env.scene, env.task).values()) == {1.0}
    for offset in ([0.075, 0, 0], [0, 0, 0.05], [0, -0.07, 0]):
        put(goal, inside + offset)
        assert not done(env.scene, env.task)
    put(goal, env.scene.place(other) + np.array([0, 0, standing(env, goal) + 0.006]))
    assert not done(env.scene, env.task)


def test_an_object_between_the_fingers_is_not_placed(env, start, put) -> None:
    goal = start(env, "put_in(red block, left bowl)", 1)
    place = env.scene.place("left bowl") + np.array([0, 0, standing(env, goal) + 0.006])
    env._arm.place(env.scene.data, place, np.zeros(3), opening=0.0205 / 0.046)
    put(goal, place)
    assert env.scene.holding(goal)
    assert not done(env.scene, env.task)


@pytest.mark.parametrize(("direction", "sign"), [("left", -1), ("right", 1)])
def test_push_counts_the_distance_in_its_direction(env, start, put, direction, sign) -> None:
    goal = start(env, f"push(blue disc, {direction})", 2)
    origin = env.scene.start[goal]
    for offset, expected in (
        ([0.09, 0, 0], True),
        ([0.07, 0, 0], False),
        ([-0.09, 0, 0], False),
        ([0.09, 0.07, 0], False),
        ([0.09, 0, 0.1], False),
    ):
        put(goal, origin + np.array(offset) * [sign, 1, 1])
        assert done(env.scene, env.task) is expected, offset
    assert failed(env.scene, env.task)  # the last one was high above the table


def test_lift_needs_height_and_both_fingers(env, start, put) -> None:
    goal = start(env, "lift(red block)", 2)
    put(goal, env.scene.eef + np.array([0.0, 0.0, 0.0]))
    assert not done(env.scene, env.task)
    env._arm.place(env.scene.data, env.scene.eef.copy(), np.zeros(3), opening=0.0205 / 0.046)
    put(goal, env.scene.eef)
    assert done(env.scene, env.task)


@pytest.mark.parametrize(
    ("relation", "offset", "expected"),
    [
        ("push_behind", [0, 0.085], True),
        ("push_behind", [0, -0.085], False),
        ("push_behind", [0.085, 0.02], False),
        ("push_beside", [0.085, 0], True),
        ("push_beside", [-0.085, 0], True),
        ("push_beside", [0, 0.085], False),
        ("put_on", [0, 0], True),
        ("put_on", [0.05, 0], False),
    ],
)
def test_relations_to_another_object(env, start, put, relation, offset, expected) -> None:
    goal = start(env, f"{relation}(red disc, blue block)", 2)
    base = env.scene.index("blue", "block")
    height = standing(env, goal) + (2 * standing(env, base) if relation == "put_on" else 0)
    put(goal, [*(env.scene.position(base)[:2] + offset), height])
    assert done(env.scene, env.task) is expected


def test_success_must_last(env, start, put) -> None:
    goal = start(env, "put_in(red block, left bowl)", 1)
    away = env.scene.position(goal).copy()
    there = env.scene.place("left bowl") + np.array([0, 0, standing(env, goal) + 0.006])
    monitor = TaskMonitor(spec=env.task)
    for place in (*[there] * (HOLD_STEPS - 1), away, *[there] * (HOLD_STEPS - 1)):
        put(goal, place)
        monitor.update(env.scene)
        assert not monitor.success
        assert monitor.progress < 1
    monitor.update(env.scene)
    assert monitor.success
    assert monitor.progress == 1


def test_sequence_wants_its_steps_in_order_and_kept(env, start, put) -> None:
    goal = start(env, "sequence(open_drawer(); put_in(yellow block, drawer); close_drawer())", 1)
    drawer, monitor, seen = env.scene.model.joint("drawer").qposadr[0], TaskMonitor(spec=env.task), []

    def look(opening: float, inside: bool) -> None:
        env.scene.data.qpos[drawer] = opening
        mujoco.mj_forward(env.scene.model, env.scene.data)
        where = env.scene.place("drawer") + np.array([0, 0, standing(env, goal)]) if inside else [0.0, -0.15, 0.021]
        put(goal, where)
        for _ in range(HOLD_STEPS):
            monitor.update(env.scene)
        seen.append(monitor.progress)

    look(0.0, True)  # lies in it, but the drawer was never opened
    assert monitor.step == 0
    look(0.1, False)
    look(0.1, True)
    assert monitor.step == 2
    look(0.0, False)  # closed, but the block was taken out before
    assert not monitor.success
    look(0.0, True)
    assert monitor.success
    assert seen[0] < seen[1] < seen[2] < seen[4] == 1.0


def test_no_scenario_starts_solved(env) -> None:
    from visuomotor.simulation.tabletop import scenarios

    for scenario in scenarios("train", 60, 5, vocabulary="full"):
        env.reset(options={"scenario": scenario})
        first = env.task.steps[0] if env.task.steps else env.task
        assert not done(env.scene, first), scenario
        assert not failed(env.scene, first), scenario
        assert env.monitor.progress < 0.5

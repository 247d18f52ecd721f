"""The safety filter without a state that it can trust, without a clock, and stopped: what leaves then."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import SafetyFilter

from tests.client.point import component
from tests.client.test_safety import ARM, BOX, END_EFFECTOR, JOINTS, robot

JOINT_STEP = component("joints", "joint", 2, unit="rad", reference="step")
JOINT_STATE = component("joints", "joint", 2, unit="rad", low=[-2.0] * 2, high=[2.0] * 2)
STEPPED = robot([JOINT_STATE], [JOINT_STEP])


@pytest.mark.parametrize("lost", [None, [math.nan, math.nan], [0.0]])
@pytest.mark.parametrize("ending", ["stop", "hold", "watchdog"])
def test_a_robot_whose_state_is_lost_stands_still(lost: Any, ending: str) -> None:
    """Without a measured position, a joint once repeated its last velocity for ever, 13.7 rad in 15 s."""
    safety = SafetyFilter(STEPPED, SafetyLimits(acceleration=5.0, watchdog=0.3))
    position, now = np.zeros(2), 0.0
    for _ in range(8):
        now += 0.1
        sent = safety.apply([0.3, -0.3], position, now=now)
        position = position + sent
    if ending == "stop":
        safety.stop()
    path = [position]
    for _ in range(150):
        now += 0.1
        arguments = {} if ending == "hold" else {"action": [0.3, -0.3]}
        call = safety.hold if ending == "hold" else safety.apply
        path.append(path[-1] + call(*arguments.values(), lost, now=now))
    assert (np.abs(path) <= 2.0 + 1e-6).all()
    speed = np.abs(sent[0])
    assert np.abs(path[-1] - position).max() <= speed**2 / (2 * 0.05) + speed
    np.testing.assert_array_equal(path[-1], path[20])


def test_a_state_that_repeats_itself_is_integrated() -> None:
    """A sensor that is stuck says that there is room for ever; the commands say otherwise."""
    safety, position = SafetyFilter(STEPPED), np.zeros(2)
    for _ in range(40):
        position = position + safety.apply([0.1, 0.1], np.zeros(2))
    np.testing.assert_allclose(position, 2.0, atol=1e-5)
    np.testing.assert_allclose(safety.apply([0.1, 0.1], np.full(2, 0.5)), 0.1, atol=1e-6)  # it measures again


def test_a_late_state_holds_at_once_and_stops_after_the_watchdog() -> None:
    safety = SafetyFilter(STEPPED, SafetyLimits(watchdog=0.5, state_age=0.15))
    state = np.zeros(2)
    assert safety.apply([0.1, 0.1], state, now=1.0, state_time=0.9)[0] > 0
    assert safety.apply([0.1, 0.1], state, now=1.1, state_time=0.9)[0] == 0
    assert safety.apply([0.1, 0.1], state, now=1.2, state_time=1.3)[0] == 0  # measured later than now
    assert safety.counts == {"state_late": 2}
    assert safety.stopped is None
    safety.hold(state, now=1.6, state_time=0.9)
    assert safety.stopped == "no state for more than 0.5 s"


@pytest.mark.parametrize(
    ("now", "time", "reason"),
    [
        (math.nan, 1.0, "clock"),
        (math.inf, 1.0, "clock"),
        ("soon", 1.0, "clock"),
        (0.5, 0.4, "clock"),
        (1.1, math.nan, "clock"),
        (1.1, "then", "clock"),
        (1.1, 1.2, "chunk_future"),
        (9.0, 1.0, "chunk_age"),
    ],
)
def test_a_clock_that_cannot_be_believed_holds(now: Any, time: Any, reason: str) -> None:
    safety = SafetyFilter(STEPPED, SafetyLimits(watchdog=0.5, chunk_age=2.0))
    assert safety.apply([0.1, 0.1], np.zeros(2), now=1.0, time=1.0)[0] > 0
    assert safety.apply([0.1, 0.1], np.full(2, 0.1), now=now, time=time)[0] == 0
    assert safety.counts[reason] == 1
    if reason == "clock" and time == 1.0:
        assert safety.overdue(now)


@pytest.mark.parametrize("bad", [[10**400, 0], 10**400, [1j, 0], ["1", "x"], [[0.1, 0.1]], object()])
def test_what_is_no_command_is_held(bad: Any) -> None:
    class Raises:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            raise RuntimeError("a tensor that requires a gradient")

    safety = SafetyFilter(STEPPED)
    for command in (bad, Raises()):
        assert safety.apply(command, np.zeros(2))[0] == 0
        assert safety.apply([0.1, 0.1], command)[0] == 0
    assert safety.counts == {"shape": 2, "state": 2}


def test_without_states_limits_of_a_position_are_refused() -> None:
    free = robot([], [component("joints", "joint", 2, unit="rad", reference="step")])
    safety = SafetyFilter(free, SafetyLimits(velocity=1.0, acceleration=5.0), state="none")
    moves = [safety.apply([9.0, 0.0])[0] for _ in range(3)]
    np.testing.assert_allclose(moves, [0.05, 0.1, 0.1], atol=1e-6)
    with pytest.raises(ValueError, match=r"limits low and high of the state of action .*'joints'.*state='none'"):
        SafetyFilter(STEPPED, state="none")
    with pytest.raises(ValueError, match="limits velocity of action component 'joints' depend on its measured"):
        SafetyFilter(ARM, SafetyLimits(velocity=1.0), state="none")
    with pytest.raises(ValueError, match="limits keep_out of action component 'place'"):
        SafetyFilter(END_EFFECTOR, SafetyLimits(keep_out=(BOX,)), state="none")
    with pytest.raises(ValueError, match="Unknown promise of states 'maybe'"):
        SafetyFilter(ARM, state="maybe")
    with pytest.raises(ValueError, match="cannot stand still: zero lies outside its limits"):
        SafetyFilter(robot([], [{**JOINT_STEP, "low": [0.1] * 2, "high": [0.2] * 2}]))


def test_a_gripper_that_moves_by_differences_keeps_its_range() -> None:
    hand = component("hand", "gripper", unit="opening", opened=0.8, closed=0.0, low=[0.0], high=[0.8])
    for reference, sent in (("step", 0.3), ("chunk_start", 0.3)):
        free = {key: value for key, value in hand.items() if key not in ("low", "high")}
        safety = SafetyFilter(robot([hand], [{**free, "reference": reference}]))
        np.testing.assert_allclose(safety.apply([0.5], [0.5], start=[0.5]), sent, atol=1e-6)
        assert safety.counts == {"limit": 1}


def test_nothing_to_hold_one_component_by_does_not_leave_the_others_unbraked() -> None:
    """A difference to a start that nobody measures is repeated, so that the joints beside it still brake."""
    tool = component("tool", "other", 1, reference="chunk_start")
    joints = component("joints", "joint", 2, unit="rad")
    safety = SafetyFilter(robot([joints], [joints, tool]), SafetyLimits(acceleration=5.0))
    sent = [np.zeros(3)] + [safety.apply([9.0, 9.0, 0.4], np.zeros(2) + k) for k in range(3)]
    safety.stop()
    sent += [safety.apply([9.0, 9.0, 0.7], np.zeros(2)) for _ in range(6)]
    change = np.diff(np.diff(np.array(sent)[:, 0]))
    assert (np.abs(change) <= 0.05 + 1e-5).all()
    assert [float(s[2]) for s in sent[4:]] == [np.float32(0.4)] * 6


def test_a_robot_found_outside_its_limits_is_not_moved_by_a_stop() -> None:
    arm = SafetyFilter(ARM)
    arm.stop()
    outside = np.array([1.5, 0.0, 0.5, 0.5])
    assert arm.hold(outside) is None
    assert arm.apply([0.0, 0.0, 0.5, 0.5], outside) is None
    near = np.array([1.1001, 0.0, 0.5, 0.5])  # a measurement may be off a little
    np.testing.assert_allclose(arm.hold(near), [1.1, 0.0, 0.5, 0.5], rtol=1e-6)
    arm.release()
    np.testing.assert_allclose(arm.hold(outside), [1.1, 0.0, 0.5, 0.5], rtol=1e-6)


def test_a_stop_in_shadow_mode_ends_a_motion_beyond_the_limits_at_once() -> None:
    """There is no braking within the limits from a motion that never kept them."""
    safety = SafetyFilter(STEPPED, SafetyLimits(acceleration=5.0, velocity=1.0), mode="shadow")
    position = np.zeros(2)
    for move in (0.04, 0.08):  # within the limits: braked like in any other mode
        position = position + safety.apply([move, move], position)
    safety.stop()
    np.testing.assert_allclose(safety.apply([0.0, 0.0], position), 0.03, atol=1e-6)
    safety.release()
    assert safety.apply([1e6, 0.0], position + 0.03) == [1e6, 0.0]
    safety.stop()
    np.testing.assert_array_equal(safety.apply([0.0, 0.0], position + 0.05), 0.0)


def test_a_released_robot_is_compared_with_where_it_was_moved_by_hand() -> None:
    safety = SafetyFilter(ARM, SafetyLimits(velocity=1.0))
    safety.apply([0.1, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5])
    safety.stop()
    np.testing.assert_allclose(safety.hold([0.1, 0.0, 0.5, 0.5]), [0.1, 0.0, 0.5, 0.5], rtol=1e-6)
    safety.hold([0.7, 0.0, 0.5, 0.5])
    safety.release()
    np.testing.assert_allclose(safety.apply([0.0, 0.0, 0.5, 0.5], [0.7, 0.0, 0.5, 0.5])[0], 0.6, rtol=1e-6)


def test_a_state_that_the_loop_writes_in_place_is_measured_in_every_step() -> None:
    """A view of the loop's buffer always equals itself, so that every state looked like a stuck sensor's."""
    safety, state = SafetyFilter(STEPPED), np.zeros(2)
    for _ in range(40):
        state += 2 * safety.apply([0.1, 0.1], state)  # the robot moves twice as far as it is sent
    assert (state <= 2.2 + 1e-6).all()
    place = component("joints", "joint", 2, unit="rad", reference="chunk_start")
    counted, start = SafetyFilter(robot([JOINT_STATE], [place])), np.zeros(2)
    counted.apply([0.1, 0.1], start, start=start)
    start += 1.0
    np.testing.assert_allclose(counted.hold(start), 0.1, atol=1e-6)  # counted from where the chunk began


ROTATIONS = {"quat_xyzw": [0, 0, 0, 1], "quat_wxyz": [1, 0, 0, 0], "rot6d": [1, 0, 0, 0, 1, 0]}


@pytest.mark.parametrize("form", ROTATIONS)
@pytest.mark.parametrize("limits", [SafetyLimits(), SafetyLimits(step_angle=0.1)])
def test_a_state_that_holds_no_rotation_is_none(form: str, limits: SafetyLimits) -> None:
    """Zeros, before a driver has measured anything, once left as a hold, and every later command was a hold of them."""
    good = np.array(ROTATIONS[form], np.float64)
    turn = component("turn", "rotation", len(good), unit=form, rotation=form)
    safety = SafetyFilter(robot([turn], [turn]), limits)
    assert safety.hold(0 * good) is None
    assert safety.apply(good, 0 * good) is None
    np.testing.assert_array_equal(safety.apply(good, good), good)
    np.testing.assert_array_equal(safety.hold(0 * good), good)
    assert safety.counts == {"state": 1}


@pytest.mark.parametrize("form", ["axis_angle", "euler_xyz"])
@pytest.mark.parametrize("size", [1e3, 1e12, 1e30])
def test_angles_so_large_that_rounding_turns_them_are_no_rotation(form: str, size: float) -> None:
    """Their angle was limited in float64; in float32 another rotation of any angle left."""
    turn = component("turn", "rotation", 3, unit="rad", rotation=form, reference="step")
    random = np.random.default_rng(0)
    safety = SafetyFilter(robot([], [turn]), SafetyLimits(step_angle=0.1), state="none")
    for _ in range(20):
        sent = safety.apply(random.normal(size=3) * size).astype(np.float64)
        there = Rotation.from_rotvec(sent) if form == "axis_angle" else Rotation.from_euler("xyz", sent)
        assert there.magnitude() <= 0.1 + 1e-5
    assert safety.counts["no_rotation"] >= 18


@pytest.mark.parametrize(
    "broken",
    [
        {"low": [math.nan] * 3},
        {"high": [None] * 3},
        {"low": [0.0]},
        {"high": 1.0},
        {"low": ["a"] * 3},
        {"low": [-(10**400)] * 3},
        {"low": [2.0] * 3, "high": [1.0] * 3},
        {"low": [math.inf] * 3, "high": [math.inf] * 3},
        {"low": [1e39] * 3, "high": [1e40] * 3},
        {"velocity": [math.nan] * 3},
        {"velocity": [-1.0] * 3},
        {"velocity": [1.0]},
    ],
)
def test_limits_of_a_robot_that_are_none_are_refused(broken: dict[str, Any]) -> None:
    """NaN in `low` once sent NaN to the robot."""
    free = component("joints", "joint", 3, unit="rad")
    with pytest.raises(ValueError, match=f"'joints' has .*{next(iter(broken))}"):
        SafetyFilter(robot([JOINTS], [{**free, **broken}]))
    if "velocity" not in broken:
        with pytest.raises(ValueError, match="'joints' has"):
            SafetyFilter(robot([{**free, **broken}], [{**free, "reference": "step"}]))


@pytest.mark.parametrize("rate", [0, -10, math.nan, math.inf, None, "fast"])
def test_a_control_rate_that_is_none_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="control_hz"):
        SafetyFilter({**ARM, "control_hz": rate})


@pytest.mark.parametrize(
    "bad",
    [
        {"step_length": (0.1, 0.1)},
        {"watchdog": (1.0, 2.0)},
        {"velocity": ((1.0, 2.0), (3.0, 4.0))},
        {"velocity": "fast"},
        {"acceleration": 10**400},
        {"velocity": {}},
        {"chunk_age": 1 + 2j},
    ],
)
def test_limits_of_another_shape_are_refused_when_they_are_made(bad: dict[str, Any]) -> None:
    """They once raised TypeError out of `apply`, with the robot under way."""
    with pytest.raises(ValueError, match=f"safety limit {next(iter(bad))}"):
        SafetyLimits(**bad)


def test_a_stop_ends_a_velocity_beside_a_target_beyond_its_limits() -> None:
    """Nothing was sent, and a mobile base went on with its last velocity."""
    base = component("base", "velocity", 2)
    safety = SafetyFilter(robot([JOINTS], [base, JOINTS]), mode="shadow")
    state = np.array([0.0, 0.0, 0.5])
    safety.apply([0.5, 0.5, 9.0, 0.0, 0.5], state)
    safety.stop()
    np.testing.assert_allclose(safety.apply([0.5, 0.5, 0.0, 0.0, 0.5], state), [0, 0, 9.0, 0.0, 0.5])
    assert safety.hold(state) is None  # at rest, and beyond the limits
    # A robot under way that gets a new instruction, and is then found outside.
    safety = SafetyFilter(robot([JOINTS], [base, JOINTS]))
    safety.apply([0.5, 0.5, 1.0, 0.0, 0.5], state)
    safety.rebase()
    safety.stop()
    np.testing.assert_allclose(safety.hold([1.5, 0.0, 0.5]), [0, 0, 1.0, 0.0, 0.5])

"""The safety filter: nothing outside the limits ever leaves, whatever comes in, and nothing inside them is touched."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import SafetyFilter

from tests.client.point import component

GRIPPER = {"unit": "opening", "low": [0.0], "high": [1.0], "opened": 1.0, "closed": 0.0}
JOINTS = component("joints", "joint", 3, unit="rad", low=[-1.1, -2.0, 0.2], high=[1.1, 2.0, 0.7])
PLACE = component("place", "position", 3, low=[-0.3, -0.3, 0.1], high=[0.3, 0.3, 0.5])
TURN = component("turn", "rotation", 4, unit="quaternion", rotation="quat_xyzw")
HAND = component("hand", "gripper", **GRIPPER)
STEP = component("place", "position", 3, reference="step", low=[-0.03] * 3, high=[0.03] * 3)
TWIST = component(
    "twist", "rotation", 3, unit="rad", rotation="axis_angle", reference="step", low=[-0.2] * 3, high=[0.2] * 3
)


def robot(state: list[dict[str, Any]], action: list[dict[str, Any]]) -> dict[str, Any]:
    return {"name": "test", "control_hz": 10.0, "state": state, "action": action}


ARM = robot([JOINTS, HAND], [JOINTS, HAND])
END_EFFECTOR = robot([PLACE, TURN, HAND], [PLACE, TURN, HAND])
DELTA = robot([PLACE, HAND], [STEP, TWIST, HAND])
BOX = ((-0.1, -0.1, 0.2), (0.1, 0.15, 0.4))
ARM_LIMITS = SafetyLimits(velocity=(1.0, 2.0, 0.5), acceleration=3.0, gripper_rate=2.0, gripper_hysteresis=0.1)
PLACE_LIMITS = SafetyLimits(step_length=0.04, step_angle=0.1, keep_out=(BOX,), gripper_rate=3.0)

anything = st.one_of(
    st.floats(width=32),
    st.floats(-3, 3),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e38, -1e38, 0.0, 0.2, 1e-45]),
)


def commands(size: int) -> st.SearchStrategy[Any]:
    good = st.lists(st.floats(-1, 1), min_size=size, max_size=size)
    bad = st.lists(anything, min_size=size, max_size=size)
    shapes = st.sampled_from([None, "go", np.zeros((2, size)), np.zeros(size + 1), [], {}, [[1], [1, 2]], math.nan])
    return st.one_of(good.map(np.array), bad.map(np.array), bad, shapes)


def run(safety: SafetyFilter, received: list[Any], state: np.ndarray, track: Any) -> list[np.ndarray | None]:
    """Commands that leave; `track(state, command)` is the robot."""
    sent = []
    for k, command in enumerate(received):
        out = safety.apply(command, state, now=k / 10)
        if out is not None:
            assert out.dtype == np.float32
            assert np.isfinite(out).all()
            state = track(state, out.astype(np.float64))
        sent.append(out)
    return sent


@settings(max_examples=150, deadline=None)
@given(st.lists(commands(4), min_size=1, max_size=25), st.sampled_from(["clamp", "reject"]), st.integers(0, 9))
def test_joints_keep_position_velocity_and_acceleration(received: list[Any], mode: str, seed: int) -> None:
    low, high = np.array([*JOINTS["low"], 0.0]), np.array([*JOINTS["high"], 1.0])
    start = np.random.default_rng(seed).uniform(low, high)
    safety = SafetyFilter(ARM, ARM_LIMITS, mode=mode)
    sent = run(safety, received, start, lambda state, command: command)
    path = np.array([start, *(s for s in sent if s is not None)], np.float64)
    assert len(path) == len(received) + 1  # the state is known: there is always something safe to send
    assert (path[1:] >= low).all()
    assert (path[1:] <= high).all()
    motion = np.diff(path, axis=0)
    tiny = 2e-6
    assert (np.abs(motion[:, :3]) <= np.array([0.1, 0.2, 0.05]) + tiny).all()
    assert (np.abs(motion[:, 3]) <= 0.2 + tiny).all()
    change = np.diff(np.vstack([np.zeros(3), motion[:, :3]]), axis=0)
    assert (np.abs(change) <= 0.03 + tiny).all()  # also in front of the limits, and when holding


@settings(max_examples=150, deadline=None)
@given(st.lists(commands(8), min_size=1, max_size=20), st.sampled_from(["clamp", "reject"]), st.integers(0, 9))
def test_an_end_effector_keeps_its_box_its_step_and_its_turn(received: list[Any], mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    start = np.array([*rng.uniform([-0.3, -0.3, 0.1], [0.3, 0.3, 0.18]), *Rotation.random(rng=rng).as_quat(), 0.5])
    sent = run(SafetyFilter(END_EFFECTOR, PLACE_LIMITS, mode=mode), received, start, lambda state, command: command)
    path = np.array([start, *(s for s in sent if s is not None)], np.float64)
    assert len(path) == len(received) + 1
    places = path[1:, :3]
    assert (places >= PLACE["low"]).all()
    assert (places <= PLACE["high"]).all()
    assert not ((places > BOX[0]) & (places < BOX[1])).all(1).any()
    assert (np.linalg.norm(np.diff(path[:, :3], axis=0), axis=1) <= 0.04 + 1e-6).all()
    turns = Rotation.from_quat(path[:, 3:7])
    assert ((turns[:-1].inv() * turns[1:]).magnitude() <= 0.1 + 1e-5).all()
    assert (np.abs(np.diff(path[:, 7])) <= 0.3 + 1e-6).all()


@settings(max_examples=150, deadline=None)
@given(st.lists(commands(7), min_size=1, max_size=25), st.sampled_from(["clamp", "reject"]), st.integers(0, 9))
def test_differences_keep_their_size_and_the_measured_place_its_box(received: list[Any], mode: str, seed: int) -> None:
    start = np.random.default_rng(seed).uniform([-0.3, -0.3, 0.1, 0], [0.3, 0.3, 0.18, 1])
    limits = SafetyLimits(step_length=0.04, step_angle=0.15, keep_out=(BOX,))
    visited = [start]

    def track(state: np.ndarray, command: np.ndarray) -> np.ndarray:
        visited.append(np.append(state[:3] + command[:3], command[6]))
        return visited[-1]

    sent = run(SafetyFilter(DELTA, limits, mode=mode), received, start, track)
    moves = np.array([s for s in sent if s is not None], np.float64)
    if not len(moves):
        return
    assert (np.abs(moves[:, :3]) <= 0.03).all()
    assert (np.linalg.norm(moves[:, :3], axis=1) <= 0.04 + 1e-6).all()
    assert (np.linalg.norm(moves[:, 3:6], axis=1) <= 0.15 + 1e-6).all()
    places = np.array(visited)[:, :3]
    assert (places >= np.array(PLACE["low"]) - 1e-6).all()
    assert (places <= np.array(PLACE["high"]) + 1e-6).all()
    assert not ((places > BOX[0]) & (places < BOX[1])).all(1).any()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(commands(4), commands(4)), min_size=1, max_size=15))
def test_positions_hold_whatever_the_state_says(received: list[tuple[Any, Any]]) -> None:
    safety = SafetyFilter(ARM, ARM_LIMITS)
    last = None
    for k, (command, state) in enumerate(received):
        out = safety.apply(command, state, now=k / 10)
        if out is None:
            assert last is None  # once something was sent, it can be held
            continue
        assert (out[:3].astype(np.float64) >= JOINTS["low"]).all()
        assert (out[:3].astype(np.float64) <= JOINTS["high"]).all()
        if last is not None:
            assert (np.abs(out.astype(np.float64) - last)[:3] <= np.array([0.1, 0.2, 0.05]) + 2e-6).all()
        last = out.astype(np.float64)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=7, max_size=7), min_size=1, max_size=8))
def test_what_is_inside_the_limits_passes_to_the_last_bit(shares: list[list[float]]) -> None:
    safety, state = SafetyFilter(DELTA), np.array([0, 0, 0.3, 0.5])
    for share in shares:
        action = (np.array([-0.01] * 3 + [-0.1] * 3 + [0.0]) + np.array(share) * 0.02).astype(np.float32)
        out = safety.apply(action, state)
        assert out is not None
        assert out.tobytes() == action.tobytes()
    assert safety.interventions == 0


def test_reasons_are_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    safety, state = SafetyFilter(ARM, ARM_LIMITS), np.array([0.0, 0.0, 0.5, 0.5])
    safety.apply([math.nan, 0, 0.5, 0.5], state, now=1.0)
    safety.apply([5.0, 0, 0.5, 0.5], state, now=1.1)
    safety.apply([0.0] * 3, state, now=1.2)
    assert safety.counts == {"not_finite": 1, "limit": 1, "velocity": 1, "acceleration": 1, "shape": 1}
    assert safety.interventions == 3
    assert [entry.reasons for entry in safety.log] == [
        ("not_finite",),
        ("limit", "velocity", "acceleration"),
        ("shape",),
    ]
    assert "At 1.100 s a command was changed (limit, velocity, acceleration)." in caplog.text
    safety.reset()
    assert safety.interventions == 3


def test_the_first_command_is_compared_with_the_measured_state() -> None:
    safety = SafetyFilter(ARM, SafetyLimits(velocity=1.0))
    assert safety.apply([1.0, 0, 0.5, 0.5]) is None  # nobody knows where the robot is
    assert safety.counts == {"state": 1}
    out = safety.apply([1.0, 0, 0.5, 0.5], [0.6, 0, 0.5, 0.5])
    np.testing.assert_allclose(out, [0.7, 0, 0.5, 0.5], rtol=1e-6)
    out = safety.apply([1.0, 0, 0.5, 0.5], [0.0, 0, 0.5, 0.5])  # from then on with the last command
    np.testing.assert_allclose(out, [0.8, 0, 0.5, 0.5], rtol=1e-6)


def test_reject_holds_and_shadow_only_counts() -> None:
    state, bad = np.array([0.1, 0.2, 0.5, 0.5]), np.array([5.0, 0.2, 0.5, 0.5])
    np.testing.assert_allclose(SafetyFilter(ARM, mode="reject").apply(bad, state), state, rtol=1e-6)
    shadow = SafetyFilter(ARM, ARM_LIMITS, mode="shadow")
    assert shadow.apply(bad, state) is bad
    wrong = np.full(4, math.nan)
    assert shadow.apply(wrong, state) is wrong
    assert shadow.interventions == 2


@pytest.mark.parametrize("mode", ["clamp", "reject", "shadow"])
def test_a_stop_latches(mode: str) -> None:
    safety, state = SafetyFilter(ARM, mode=mode), np.array([0.1, 0.2, 0.5, 0.5])
    safety.stop("pressed")
    for _ in range(3):
        safety.reset()  # a new episode does not end it
        np.testing.assert_allclose(safety.apply([0.3, 0.3, 0.4, 1.0], state), state, rtol=1e-6)
    assert safety.counts == {"stop": 3}
    safety.release()
    np.testing.assert_allclose(safety.apply([0.3, 0.3, 0.4, 1.0], state), [0.3, 0.3, 0.4, 1.0], rtol=1e-6)


def test_hold_is_the_last_target_for_absolute_actions_and_zero_for_differences() -> None:
    arm = SafetyFilter(ARM)
    assert arm.hold() is None  # nothing is known
    arm.apply([0.3, 0.3, 0.4, 1.0], np.array([0.1, 0.2, 0.5, 0.5]))
    np.testing.assert_allclose(arm.hold(np.zeros(4)), [0.3, 0.3, 0.4, 1.0], rtol=1e-6)
    delta = SafetyFilter(DELTA)
    np.testing.assert_allclose(delta.hold(np.array([0, 0, 0.3, 0.25])), [0, 0, 0, 0, 0, 0, 0.25])
    delta.apply([0.01, 0, 0, 0, 0, 0, 0.75], np.array([0, 0, 0.3, 0.25]))
    np.testing.assert_allclose(delta.hold(np.array([0, 0, 0.3, 0.25])), [0, 0, 0, 0, 0, 0, 0.75])
    assert arm.interventions == delta.interventions == 0  # waiting for a chunk is none


def test_a_watchdog_holds_when_observations_or_actions_stop() -> None:
    safety, state = SafetyFilter(ARM, SafetyLimits(watchdog=0.5)), np.array([0.1, 0.2, 0.5, 0.5])
    safety.apply([0.3, 0.3, 0.4, 1.0], state, now=0.0)
    safety.hold(state, now=0.4)
    assert not safety.overdue(0.4)
    assert safety.overdue(0.6)  # no action since 0.0
    safety.hold(state, now=0.6)
    assert safety.counts == {"watchdog": 1}
    out = safety.apply([0.4, 0.3, 0.4, 1.0], state, now=0.7)
    np.testing.assert_allclose(out, [0.4, 0.3, 0.4, 1.0], rtol=1e-6)
    out = safety.apply([0.9, 0.3, 0.4, 1.0], None, now=1.0)  # a state that is missing holds at once
    np.testing.assert_allclose(out, [0.4, 0.3, 0.4, 1.0], rtol=1e-6)
    assert safety.counts == {"watchdog": 1, "state": 1}
    assert safety.stopped is None
    safety.apply([0.9, 0.3, 0.4, 1.0], None, now=1.3)  # none since 0.7
    assert safety.stopped == "no state for more than 0.5 s"
    out = safety.apply([0.9, 0.3, 0.4, 1.0], state, now=1.4)  # and only a release ends that
    np.testing.assert_allclose(out, [0.4, 0.3, 0.4, 1.0], rtol=1e-6)
    safety.release()
    out = safety.apply([0.9, 0.3, 0.4, 1.0], state, now=1.5)
    np.testing.assert_allclose(out, [0.9, 0.3, 0.4, 1.0], rtol=1e-6)


def test_an_old_chunk_is_not_executed() -> None:
    safety, state = SafetyFilter(DELTA, SafetyLimits(chunk_age=0.8)), np.array([0, 0, 0.3, 0.5])
    action = [0.01, 0, 0, 0, 0, 0, 0.5]
    assert safety.apply(action, state, now=1.0, time=0.3)[0] > 0
    assert safety.apply(action, state, now=1.0, time=0.1)[0] == 0
    assert safety.counts == {"chunk_age": 1}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(commands(4), st.floats(0, 2), st.booleans()), min_size=1, max_size=15))
def test_what_is_late_changes_nothing(received: list[tuple[Any, float, bool]]) -> None:
    """Commands of old chunks, and commands while observations are missing, are answered by what was sent before."""
    safety = SafetyFilter(ARM, SafetyLimits(chunk_age=0.5, watchdog=0.25))
    last, seen = np.array([0.1, 0.2, 0.5, 0.5], np.float32), 0.0
    safety.hold(last, now=0.0)
    for k, (command, age, observed) in enumerate(received, start=1):
        now = k / 10
        seen = now if observed else seen
        out = safety.apply(command, last if observed else None, now=now, time=now - age)
        assert out is not None
        if age > 0.5 or now - seen > 0.25:
            np.testing.assert_allclose(out, last, rtol=1e-6)
        last = out


def test_a_gripper_ignores_small_reversals_alone() -> None:
    safety = SafetyFilter(ARM, SafetyLimits(gripper_hysteresis=0.1))
    state = np.array([0.1, 0.2, 0.5, 0.5])
    found = [safety.apply([0.1, 0.2, 0.5, g], state)[3] for g in (0.6, 0.55, 0.58, 0.65, 0.5, 0.45, 0.5)]
    np.testing.assert_allclose(found, [0.6, 0.6, 0.6, 0.65, 0.5, 0.45, 0.45], rtol=1e-6)
    assert safety.counts == {"gripper_hysteresis": 3}


def test_a_measured_gripper_is_read_in_the_actions_numbers() -> None:
    width = component("hand", "gripper", unit="mm", low=[0.0], high=[80.0], opened=80.0, closed=0.0)
    command = component("grip", "gripper", unit="command", low=[-1.0], high=[1.0], opened=1.0, closed=-1.0)
    safety = SafetyFilter(robot([width], [command]), SafetyLimits(gripper_rate=1.0))
    np.testing.assert_allclose(safety.apply([1.0], np.array([20.0])), [-0.5 + 0.2], rtol=1e-6)


def test_differences_to_the_chunks_start_are_limited_as_places() -> None:
    place = {**PLACE, "reference": "chunk_start", "low": [-0.5] * 3, "high": [0.5] * 3}
    safety = SafetyFilter(robot([PLACE], [place]), SafetyLimits(step_length=0.05))
    start, state = np.array([0.2, 0.0, 0.3]), np.array([0.25, 0.0, 0.3])
    out = safety.apply([0.3, 0, 0], state, start=start)  # to 0.5, but the box ends at 0.3, one step away
    np.testing.assert_allclose(out, [0.1, 0, 0], atol=1e-6)
    assert safety.counts == {"workspace": 1}
    np.testing.assert_allclose(safety.hold(state, start=np.array([0.1, 0, 0.3])), [0.2, 0, 0], atol=1e-6)
    # A difference to an unknown start is replaced by a hold, counted from the last start that was known.
    np.testing.assert_allclose(safety.apply([0.3, 0, 0], state), [0.2, 0, 0], atol=1e-6)
    assert safety.counts == {"workspace": 2, "start": 1}
    assert SafetyFilter(robot([PLACE], [place])).apply([0.3, 0, 0], state) is None


@pytest.mark.parametrize("form", ["euler_xyz", "axis_angle"])
def test_angles_go_the_short_way_round(form: str) -> None:
    turn = component("turn", "rotation", 3, unit="rad", rotation=form, low=[-math.pi] * 3, high=[math.pi] * 3)
    safety, state = SafetyFilter(robot([turn], [turn]), SafetyLimits(step_angle=0.05)), np.array([0, 0, 3.1])
    goal = Rotation.from_euler("z", -3.0)
    for _ in range(5):
        state = safety.apply([0, 0, -3.0], state).astype(np.float64)
    where = Rotation.from_rotvec(state) if form == "axis_angle" else Rotation.from_euler("xyz", state)
    assert (where.inv() * goal).magnitude() < 0.02


def test_a_rotation_that_nobody_can_read_is_limited_by_its_numbers_alone() -> None:
    tilt = component("tilt", "rotation", 2, unit="rad", rotation="pan_tilt", low=[-1.0] * 2, high=[1.0] * 2)
    found = SafetyFilter(robot([tilt], [tilt])).apply([0.3, 5.0], np.zeros(2))
    np.testing.assert_allclose(found, [0.3, 1.0])
    with pytest.raises(ValueError, match="angle of 'tilt' cannot be limited"):
        SafetyFilter(robot([tilt], [tilt]), SafetyLimits(step_angle=0.1))


def test_a_robot_that_stands_outside_is_only_let_back() -> None:
    safety = SafetyFilter(DELTA, SafetyLimits(keep_out=(BOX,)))
    outside = np.array([0.32, 0.0, 0.3, 0.5])
    assert safety.apply([0.01, 0, 0, 0, 0, 0, 0.5], outside)[0] == 0
    assert safety.apply([-0.01, 0, 0, 0, 0, 0, 0.5], outside)[0] == np.float32(-0.01)
    assert safety.hold(outside)[0] == 0  # the filter itself moves nothing
    within = np.array([0.09, 0.0, 0.3, 0.5])
    assert safety.apply([-0.01, 0, 0, 0, 0, 0, 0.5], within)[0] == 0
    assert safety.apply([0.02, 0, 0, 0, 0, 0, 0.5], within)[0] == np.float32(0.02)


def test_impossible_limits_are_refused() -> None:
    for bad in (
        {"velocity": 0.0},
        {"step_length": math.nan},
        {"acceleration": (1.0, -1.0)},
        {"gripper_hysteresis": -1.0},
    ):
        with pytest.raises(ValueError, match=f"safety limit {next(iter(bad))}"):
            SafetyLimits(**bad)
    with pytest.raises(ValueError, match="low corner"):
        SafetyLimits(keep_out=(((0, 0, 0), (1, 1, 0)),))
    with pytest.raises(ValueError, match="2 values, but the action has 3 joints"):
        SafetyFilter(ARM, SafetyLimits(velocity=(1.0, 1.0)))
    with pytest.raises(ValueError, match="no place"):
        SafetyFilter(END_EFFECTOR, SafetyLimits(keep_out=(((-1, -1, -1), (1, 1, 1)),)))
    with pytest.raises(ValueError, match="kind 'position'"):
        SafetyFilter(ARM, SafetyLimits(keep_out=(BOX,)))
    with pytest.raises(ValueError, match="Unknown safety mode"):
        SafetyFilter(ARM, mode="off")
    with pytest.raises(ValueError, match="which is no rotation"):
        SafetyFilter(robot([TURN], [{**TURN, "reference": "chunk_start"}]))

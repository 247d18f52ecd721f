"""Stateful properties of the safety filter, over every kind of component, reference, limit, state, clock and mode.

A run by hand with more commands: `SAFETY_COMMANDS=1000000 pytest tests/client/test_safety_machine.py -s`.
"""

import math
import os
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as fixed_seed
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import SafetyFilter

from tests.client.plant import HZ, KEEP_OUT, RANGES, TINY, WORKSPACE, Axis, Plant

IN_CI = 20_000
COMMANDS = int(os.environ.get("SAFETY_COMMANDS", IN_CI))
WATCHDOG, CHUNK_AGE = 0.45, 2.0
VALUES: dict[str, Any] = {
    "velocity": 1.0,
    "acceleration": 3.0,
    "workspace": WORKSPACE,
    "keep_out": (KEEP_OUT,),
    "step_length": 0.02,
    "step_angle": 0.1,
    "gripper_rate": 2.0,
    "watchdog": WATCHDOG,
    "chunk_age": CHUNK_AGE,
}
MODES = ("clamp", "reject", "shadow")
STATES = ("present", "None", "NaN", "late", "frozen", "short")
CLOCKS = ("forward", "equal", "backwards", "NaN")
TIMES = ("now", "unknown", "old", "future", "NaN")
STARTS = ("known", "None", "NaN")
GOALS = ("low", "high", "random", "wild", "here")
REFERENCES = ("absolute", "chunk_start", "step")
COUNTS: Counter[str] = Counter()


@dataclass(frozen=True)
class Conditions:
    """What accompanies a command: its state, clock, observation time and chunk start."""

    state: str = "present"
    clock: str = "forward"
    time: str = "now"
    start: str = "known"


GOOD = Conditions()
# Mostly nothing is wrong, so that limits are approached; else one thing, or several at once.
conditions = st.one_of(
    st.just(GOOD),
    st.just(GOOD),
    st.sampled_from(STATES).map(lambda state: replace(GOOD, state=state)),
    st.sampled_from(TIMES).map(lambda time: replace(GOOD, time=time)),
    st.sampled_from(STARTS).map(lambda start: replace(GOOD, start=start)),
    st.builds(
        Conditions,
        state=st.sampled_from(STATES),
        clock=st.sampled_from(CLOCKS),
        time=st.sampled_from(TIMES),
        start=st.sampled_from(STARTS),
    ),
)


class FilterMachine(RuleBasedStateMachine):
    """One filter before one plant. Commands are held for up to 40 steps, so that limits are approached and kept to."""

    first: tuple[str, str]  # kind and reference of the first component
    mode: str

    @initialize(seed=st.integers(0, 2**32 - 1))
    def build(self, seed: int) -> None:
        """Draw a robot with limits, until the filter accepts them."""
        self.random = np.random.default_rng(seed)
        while True:
            self.promise = str(self.random.choice(["required", "required", "none"]))
            self.plant = self._robot(self.first)
            self.limits = self.plant.limits
            robot, limits = self.plant.embodiment(), SafetyLimits(**self.limits)
            try:
                self.filter = SafetyFilter(robot, limits, mode=self.mode, state=self.promise)
                break
            except ValueError as error:
                if "depend on its measured position" not in str(error):
                    raise
                COUNTS["refused when built"] += 1
        self.measures = bool(len(self.plant.state())) and self.promise == "required"
        self.now, self.seen_at, self.ticked = 0.0, -math.inf, False
        self.latest = self.plant.state()
        self.start = list(self.plant.position)
        self.filter_start: list[np.ndarray] | None = None
        self.ready = False
        # In shadow mode limits are not kept, and a robot beyond them is stopped at once.
        self.free = self.mode == "shadow"
        self.stop_step: int | None = None

    def _robot(self, first: tuple[str, str]) -> Plant:
        every = [*product(sorted(RANGES), REFERENCES)]
        others = [every[i] for i in self.random.integers(len(every), size=self.random.integers(3))]
        axes = [
            Axis(
                kind=kind,
                reference=reference,
                bounded=bool(self.random.random() < 0.7),
                measured=bool(self.random.random() < 0.85),
            )
            for kind, reference in (first, *others)
        ]
        limits = {name: value for name, value in VALUES.items() if self.random.random() < 0.6}
        present = {axis.kind for axis in axes}
        for name, kind in (("workspace", "position"), ("keep_out", "position"), ("velocity", "joint")):
            if kind not in present:
                limits.pop(name, None)
        if "joint" not in present:
            limits.pop("acceleration", None)
        return Plant(axes, limits, [self._initial(axis) for axis in axes])

    def _initial(self, axis: Axis) -> np.ndarray:
        low, high = (np.array(side) for side in RANGES[axis.kind])
        if axis.kind == "position":
            low, high = np.array([-0.2, 0.16, 0.13]), np.array([0.2, 0.27, 0.44])
        if axis.kind == "rotation":
            low, high = low / 4, high / 4
        return self.random.uniform(low, high).astype(np.float32).astype(np.float64)

    # Events ---------------------------------------------------------------------------------------------------------

    @rule(steps=st.integers(1, 40), goal=st.sampled_from(GOALS), conditions=conditions)
    def command(self, steps: int, goal: str, conditions: Conditions) -> None:
        """Hold one command for some steps."""
        action = self._action(goal)
        for _ in range(steps):
            self._step(action, conditions)

    @rule(steps=st.integers(1, 25), conditions=conditions)
    def gap(self, steps: int, conditions: Conditions) -> None:
        """No chunk: the loop asks for holds."""
        for _ in range(steps):
            self._step(None, conditions)

    @rule(bad=st.sampled_from([None, "go", [], [10**400], {}, 10**400, math.nan, [[1.0], [1.0, 2.0]], "inf"]))
    def garbage(self, bad: Any) -> None:
        """A command that is none."""
        size = self.plant.where[-1].stop
        action = np.full(size, math.inf) if bad == "inf" else [10**400] * size if bad == [10**400] else bad
        self._step(action, GOOD)

    @rule()
    def new_chunk(self) -> None:
        """Actions that are differences to the chunk's start count from here."""
        self.start = list(self.plant.position)

    @rule()
    def stop(self) -> None:
        self.filter.stop("test")

    @precondition(lambda self: self.filter.stopped is not None)
    @rule()
    def release(self) -> None:
        self.filter.release()
        self.stop_step = None
        self.seen_at, self.ticked = -math.inf, False

    # One control step -----------------------------------------------------------------------------------------------

    def _action(self, target: str) -> np.ndarray:
        values = []
        for i, axis in enumerate(self.plant.axes):
            low, high = (np.array(side) for side in RANGES[axis.kind])
            reach = 0.3 * (high - low)
            goal = {
                "low": low - 0.1,
                "high": high + 0.1,
                "wild": self.random.choice([-1e6, 1e6, 1e39], axis.size),
                "here": self.plant.position[i],
            }.get(target, self.random.uniform(low - reach, high + reach))
            if axis.reference == "chunk_start":
                goal = goal - self.start[i]
            elif axis.reference == "step":
                goal = np.zeros(axis.size) if target == "here" else (goal - (low + high) / 2) * 0.3
            values.append(goal)
        return np.concatenate(values)

    def _clock(self, clock: str) -> tuple[float, bool]:
        """(time that the filter is told, whether it is one)."""
        if clock == "forward":
            self.now += 1 / HZ
        if clock == "backwards":
            return self.now - 0.5, not self.ticked
        return (math.nan, False) if clock == "NaN" else (self.now, True)

    def _state(self, state: str) -> tuple[Any, float | None, bool]:
        """(state, its time stamp, whether the filter may use it)."""
        size = len(self.plant.state())
        if state == "present":
            self.latest = self.plant.state()
        if state in ("present", "frozen"):  # frozen: the last numbers that were delivered, for ever
            return self.latest.copy(), None, True
        if state == "late":
            return self.plant.state(), self.now - 1.0, False
        bad = {"None": None, "NaN": np.full(size, math.nan), "short": np.zeros(max(size - 1, 0))}[state]
        return bad, None, size == 0 and state != "None"

    def _step(self, action: Any, conditions: Conditions) -> None:
        state, clock, time, start = conditions.state, conditions.clock, conditions.time, conditions.start
        COUNTS["commands"] += 1
        COUNTS[f"state {state}"] += 1
        COUNTS[f"clock {clock}"] += 1
        now, clock_good = self._clock(clock)
        if clock_good:
            # After a release the filter takes over whatever time comes first.
            self.now, self.ticked = now, True
        values, stamp, state_good = self._state(state)
        if stamp is not None and not clock_good:
            stamp = now - 1.0
        origin = np.concatenate([*self._measured(self.start), np.zeros(0)])
        known = {"known": origin, "None": None, "NaN": np.full(len(origin), math.nan)}[start]
        begin = {"unknown": None, "now": now, "old": now - 5.0, "future": now + 1.0, "NaN": math.nan}[time]
        stopped = self.filter.stopped is not None
        hold = action is None
        if hold:
            sent = self.filter.hold(values, now=now, start=known, state_time=stamp)
        else:
            sent = self.filter.apply(action, values, now=now, time=begin, start=known, state_time=stamp)
        self._note(state_good, clock_good, start)
        usable = clock_good and (state_good or not self.measures) and not self._bad_time(time)
        usable &= start == "known" or not self._counts_from_start()
        self._require(action, sent, stopped=stopped, hold=hold or not usable)

    def _note(self, state_good: bool, clock_good: bool, start: str) -> None:
        """Keep an account of when the filter last got a state that it can use."""
        if self.seen_at == -math.inf and self.ticked:
            self.seen_at = self.now
        if state_good and self.measures:
            self.ready = True
            self.seen_at = self.now if self.ticked else self.seen_at
        if start == "known":
            self.filter_start = self.start
        lost = self.measures and not state_good and self.ticked and self.now - self.seen_at > WATCHDOG + 1e-9
        if lost and "watchdog" in self.limits and self.mode != "shadow":
            assert self.filter.stopped is not None
            COUNTS["latched"] += 1

    def _bad_time(self, time: str) -> bool:
        return time in ("future", "NaN") or (time == "old" and "chunk_age" in self.limits)

    def _counts_from_start(self) -> bool:
        return any(axis.reference == "chunk_start" and axis.in_state for axis in self.plant.axes)

    def _measured(self, positions: list[np.ndarray]) -> list[np.ndarray]:
        return [p for axis, p in zip(self.plant.axes, positions, strict=True) if axis.in_state]

    # Properties -----------------------------------------------------------------------------------------------------

    def _require(self, action: Any, sent: Any, *, stopped: bool, hold: bool) -> None:
        stopped = stopped or self.filter.stopped is not None
        if self.mode == "shadow" and not stopped and action is not None:
            self._pass_on(action, sent)
            return
        if sent is None:
            self._require_unknown()
            self.plant.execute(None, self.start)
            if stopped or (hold and not self.free):
                self.plant.require_slower()
            return
        # Without a start of its own, a command counts from the last one that was known.
        start = self.filter_start or self.start
        self.plant.execute(sent, start)
        if self.free and not stopped:
            return  # beyond its limits, a robot that holds without a stop is brought back
        if not self.free:
            self.plant.require_limits(sent)
        if hold or stopped:
            self.plant.require_slower()
        if stopped:
            self._require_end()

    def _pass_on(self, action: Any, sent: Any) -> None:
        """Shadow mode changes nothing."""
        given = np.asarray(action, np.float64) if isinstance(action, np.ndarray) else None
        if given is None or given.shape != (self.plant.where[-1].stop,):
            assert sent is action
            return
        if not (np.abs(given) <= np.finfo(np.float32).max).all():
            assert sent is action
            return
        np.testing.assert_array_equal(np.asarray(sent, np.float32), given.astype(np.float32))
        self.plant.execute(given.astype(np.float32), self.filter_start or self.start)

    def _require_unknown(self) -> None:
        """Nothing may leave only where a component's position, or its chunk's start, was never known.

        In shadow mode also where it is beyond its limits.
        """
        if self.free:
            return
        for axis in self.plant.axes:
            if axis.reference == "step" or axis.kind == "velocity":
                continue
            if not self.ready or not axis.in_state:
                return
            if axis.reference == "chunk_start" and self.filter_start is None:
                return
        raise AssertionError("the filter knows where everything is, and sends nothing")

    def _require_end(self) -> None:
        """After a stop the motion ends within the braking distance, and does not begin again."""
        if self.stop_step is None:
            self.stop_step = 0
            self.stop_position = [p.copy() for p in self.plant.position]
            self.stop_distance = self.plant.braking()
            speeds = [np.abs(m).max(initial=0.0) for m in self.plant.motion]
            self.stop_steps = math.ceil(max(speeds) / (VALUES["acceleration"] / HZ**2)) + 1
            return
        self.stop_step += 1
        for i, axis in enumerate(self.plant.axes):
            if not axis.is_checked:
                continue
            travelled = np.abs(self.plant.position[i] - self.stop_position[i])
            margin = TINY * (1 + self.stop_step)
            assert (travelled <= self.stop_distance[i] + margin).all(), (axis, travelled, self.stop_distance[i])
            if self.stop_step > self.stop_steps:
                COUNTS["steps after the end of a stop"] += 1
                assert (np.abs(self.plant.motion[i]) <= TINY).all(), (axis, self.plant.motion[i])


def machine_for(kind: str, reference: str, mode: str) -> type[FilterMachine]:
    return type("Machine", (FilterMachine,), {"first": (kind, reference), "mode": mode})


CASES = [*product(sorted(RANGES), REFERENCES, MODES)]
every_component = pytest.mark.parametrize(("kind", "reference", "mode"), CASES, ids=["-".join(case) for case in CASES])


@every_component
def test_nothing_beyond_the_limits_leaves_and_a_stop_ends_every_motion(kind: str, reference: str, mode: str) -> None:
    machine = machine_for(kind, reference, mode)
    if COMMANDS == IN_CI:
        machine = fixed_seed(zlib.crc32(f"{kind} {reference} {mode}".encode()))(machine)
    COUNTS.clear()
    share = COMMANDS / (len(RANGES) * len(REFERENCES) * len(MODES))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=math.ceil(share / (25 if COMMANDS == IN_CI else 50)),
            stateful_step_count=20,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(dict(COUNTS))
    assert COUNTS["commands"] >= share


@every_component
def test_every_state_and_clock_before_and_after_a_stop(kind: str, reference: str, mode: str) -> None:
    """Each combination once: approach a limit, meet the condition, stop under it, and be released."""
    for seed, (state, clock) in enumerate(product(STATES, CLOCKS)):
        goal = ("low", "high")[seed % 2]
        machine = machine_for(kind, reference, mode)()
        machine.build(seed)
        condition = replace(GOOD, state=state, clock=clock)
        machine.new_chunk()
        machine.command(8, goal, GOOD)
        machine.command(3, "random", condition)
        machine.command(3, goal, GOOD)
        machine.stop()
        machine.command(6, goal, condition)
        machine.gap(2, condition)
        machine.release()
        machine.command(2, goal, condition)
        machine.new_chunk()
        machine.command(12, goal, GOOD)

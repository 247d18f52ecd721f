"""Executors on a simulated clock with injected latency: which action runs when, and how long the robot waits."""

from collections.abc import Callable

import numpy as np
import pytest
from visuomotor_client.chunking import ChunkExecutor, ChunkRequest, RecedingHorizon
from visuomotor_client.controller import Controller
from visuomotor_client.ensemble import TemporalEnsemble
from visuomotor_client.executors import EXECUTORS, make_executor
from visuomotor_client.loop import SimulatedClock, SimulatedInference, SystemClock, ThreadedInference, run
from visuomotor_client.safety import SafetyFilter

from tests.client.point import ROBOT, PointRobot, planned

Ask = Callable[[float, ChunkRequest | None], np.ndarray]


def drive(
    executor: ChunkExecutor, ask: Ask, latency: float | Callable[[], float], steps: int
) -> tuple[Controller, PointRobot]:
    controller, robot, clock = Controller(executor, SafetyFilter(ROBOT)), PointRobot(), SimulatedClock()
    run(controller, robot, ask, clock=clock, inference=SimulatedInference(clock, latency), steps=steps)
    return controller, robot


def test_a_synchronous_robot_waits_for_each_chunk() -> None:
    controller, robot = drive(RecedingHorizon(action_dim=1, execute=4), planned(8), 0.2, 18)
    assert controller.stalls == 3 * 2  # 200 ms at 10 Hz are two steps, once per chunk
    assert list(controller.delays) == [2, 2, 2]
    assert robot.moves == [0, 0, *[1] * 4, 0, 0, *[1] * 4, 0, 0, *[1] * 4]


def test_an_asynchronous_robot_goes_on_and_leaves_out_what_is_past() -> None:
    asked: list[float] = []

    def ask(x: float, request: ChunkRequest | None) -> np.ndarray:
        asked.append(x)
        return (10.0 * len(asked) + np.arange(8.0)[:, None]) / 1000  # which chunk, which element

    controller, robot = drive(RecedingHorizon(action_dim=1, execute=4, asynchronous=True), ask, 0.2, 12)
    assert controller.stalls == 2  # only before the first chunk
    elements = [round(1000 * move) for move in robot.moves[2:]]
    assert elements == [10, 11, 12, 13, 14, 15, 22, 23, 24, 25]  # asked after four, there two steps later
    assert list(controller.delays) == [2, 2]
    assert controller.seams == [2, 8]


def test_it_looks_early_enough_for_the_delay_that_it_measured() -> None:
    controller, _ = drive(RecedingHorizon(action_dim=1, execute=8, asynchronous=True), planned(8), 0.3, 40)
    assert controller.stalls == 3  # only before the first chunk: the others are asked for after five actions
    assert controller.seams[:3] == [3, 11, 16]


def test_an_answer_that_takes_longer_than_the_chunk_loses_no_action() -> None:
    asked: list[int] = []

    def ask(x: float, request: ChunkRequest | None) -> np.ndarray:
        asked.append(len(asked))
        return 0.1 * (10 * asked[-1] + np.arange(4.0)[:, None])  # which chunk, which element

    controller, robot = drive(RecedingHorizon(action_dim=1, execute=3, asynchronous=True), ask, 0.4, 14)
    # One action is executed, three are left when the policy looks; the robot waits for the fourth step of each answer.
    assert [round(10 * move) for move in robot.moves] == [0, 0, 0, 0, 0, 1, 2, 3, 0, 13, 0, 0, 0, 21]
    assert controller.stalls == 4 + 1 + 3
    assert list(controller.delays) == [4, 4, 4]


def test_the_delay_is_measured_and_the_largest_recent_one_is_expected() -> None:
    requests: list[ChunkRequest | None] = []
    latencies = iter([0.0, 0.1, 0.3, 0.1, 0.1])

    def ask(x: float, request: ChunkRequest | None) -> np.ndarray:
        requests.append(request)
        return np.full((8, 1), 0.01 * len(requests))

    drive(
        RecedingHorizon(action_dim=1, execute=4, asynchronous=True, guidance="guided"), ask, lambda: next(latencies), 18
    )
    assert requests[0] is None  # nothing runs yet
    told = [(r.delay, len(r.previous)) for r in requests[1:] if r is not None]
    assert told[0] == (0, 4)  # the first answer came at once
    assert told[1] == (1, 4)
    assert told[2] == (3, 4)
    assert told[3] == (3, 4)  # the largest of the last ten
    assert requests[2] is not None
    np.testing.assert_allclose(requests[2].previous, np.full((4, 1), 0.02))


def test_a_delay_beyond_what_is_left_is_told_as_what_is_left() -> None:
    executor = RecedingHorizon(action_dim=1, execute=6, asynchronous=True, guidance="guided")
    executor.request()
    executor.update(np.zeros((8, 1)), delay=5)
    for _ in range(6):
        executor.next_action()
    request = executor.request()
    assert request is not None
    assert (request.delay, len(request.previous)) == (2, 2)
    executor.cancel()
    assert executor.needs_chunk


def test_act_weighs_the_oldest_most() -> None:
    chunks = np.array([[[100.0 * c + j] for j in range(4)] for c in range(6)])
    ensemble, found = TemporalEnsemble(action_dim=1, decay=0.5), []
    for chunk in chunks:
        ensemble.update(chunk)
        found.append(float(ensemble.next_action()[0]))
    for t, action in enumerate(found):
        said = [chunks[c, t - c, 0] for c in range(max(0, t - 3), t + 1)]  # oldest first; chunks have four elements
        np.testing.assert_allclose(action, np.average(said, weights=np.exp(-0.5 * np.arange(len(said)))), rtol=1e-6)
    with pytest.raises(ValueError, match="decay"):
        TemporalEnsemble(action_dim=1, decay=-1)


def test_an_asynchronous_ensemble_never_waits_and_averages_what_has_come() -> None:
    def ask(x: float, request: ChunkRequest | None) -> np.ndarray:
        return np.full((8, 1), 0.01)

    controller, robot = drive(make_executor("asynchronous_ensemble", ROBOT), ask, 0.3, 20)
    assert controller.stalls == 3
    np.testing.assert_allclose(robot.moves[3:], 0.01, rtol=1e-6)
    assert len(controller.delays) >= 5


@pytest.mark.parametrize("name", [n for n in EXECUTORS if n not in ("temporal_ensemble", "adaptive_ensemble")])
@pytest.mark.parametrize("latency", [0.0, 0.05, 0.1, 0.3])
def test_every_executor_follows_a_plan_that_does_not_change(name: str, latency: float) -> None:
    """A policy whose chunks agree about the future: whatever the executor and the delay, the robot follows it."""
    goal = 1.0

    def ask(x: float, request: ChunkRequest | None) -> np.ndarray:
        places = np.minimum(x + 0.1 * np.arange(1, 13), goal)
        return np.diff(np.append(x, places))[:, None]

    controller, robot = drive(make_executor(name, ROBOT, execute=4), ask, latency, 30)
    assert robot.x == pytest.approx(goal, abs=1e-3)
    if name != "receding_horizon":
        assert controller.stalls == int(np.ceil(latency * 10 - 1e-9))


def test_real_threads_keep_the_robot_moving_while_the_policy_thinks() -> None:
    import threading
    import time

    main, threads = threading.get_ident(), set()

    def ask(x: float, request: ChunkRequest | None) -> np.ndarray:
        threads.add(threading.get_ident())
        time.sleep(0.012)
        return np.full((50, 1), 0.01)

    fast = {**ROBOT, "control_hz": 250.0}
    controller = Controller(make_executor("asynchronous", fast, execute=10), SafetyFilter(fast))
    robot = PointRobot()
    run(controller, robot, ask, clock=SystemClock(), inference=ThreadedInference(), steps=60)
    assert main not in threads
    delays = list(controller.delays)
    assert max(delays) >= 2  # 12 ms at 4 ms a step, unless the machine is late
    assert controller.stalls < sum(delays)  # it did not wait for all of them
    assert controller.stalls == 60 - np.count_nonzero(robot.moves)
    assert len(robot.moves) == 60


def test_what_the_policy_raises_ends_the_loop_with_a_hold() -> None:
    def ask(x: float, request: ChunkRequest | None) -> np.ndarray:
        if x > 0.2:
            raise RuntimeError("no power")
        return np.full((4, 1), 0.1)

    controller, robot, clock = (
        Controller(make_executor("receding_horizon", ROBOT), SafetyFilter(ROBOT)),
        PointRobot(),
        SimulatedClock(),
    )
    with pytest.raises(RuntimeError, match="no power"):
        run(controller, robot, ask, clock=clock, inference=SimulatedInference(clock), steps=10)
    assert robot.moves[-1] == 0


def test_contradictions_are_refused() -> None:
    with pytest.raises(ValueError, match="a synchronous robot waits"):
        RecedingHorizon(action_dim=1, execute=4, guidance="prefix")
    with pytest.raises(ValueError, match="Unknown guidance 'magic'"):
        RecedingHorizon(action_dim=1, execute=4, guidance="magic")
    with pytest.raises(ValueError, match="Unknown executor"):
        make_executor("open", ROBOT)
    relative = {**ROBOT, "action": [{**ROBOT["action"][0], "reference": "chunk_start"}]}
    with pytest.raises(ValueError, match="cannot be mixed"):
        make_executor("temporal_ensemble", relative)
    make_executor("receding_horizon", relative)
    with pytest.raises(ValueError, match="delay 3"):
        ChunkRequest(previous=np.zeros((2, 1)), delay=3)

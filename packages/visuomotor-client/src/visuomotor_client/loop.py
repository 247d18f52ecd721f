"""The control loop, on real threads or on a simulated clock. numpy only.

run(controller, robot, policy, clock=SystemClock(), inference=ThreadedInference(), steps=1000)
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Optional, Union

import numpy as np

from visuomotor_client.chunking import ChunkRequest
from visuomotor_client.controller import Controller

__all__ = ["SimulatedClock", "SimulatedInference", "SystemClock", "ThreadedInference", "run"]

Ask = Callable[[Any, Optional[ChunkRequest]], np.ndarray]  # observation, request -> actions [T, A]


class SystemClock:
    """The computer's own monotonic clock, in seconds."""

    def now(self) -> float:
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - time.monotonic()))


class SimulatedClock:
    """A clock that moves only when somebody sleeps: latency can be injected, and every run is the same."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        return self._now

    def sleep_until(self, moment: float) -> None:
        self._now = max(self._now, moment)


class SimulatedAnswer:
    """An answer that is known at once, and given out when its time has come."""

    def __init__(self, clock: SimulatedClock, due: float, actions: np.ndarray) -> None:
        self._clock, self._due, self._actions = clock, due, actions

    def done(self) -> bool:
        return self._clock.now() >= self._due - 1e-9  # control steps and latencies are sums of decimal fractions

    def result(self) -> np.ndarray:
        return self._actions


class SimulatedInference:
    """Answers after `latency` seconds of a simulated clock: a number, or a function called for each request."""

    def __init__(self, clock: SimulatedClock, latency: Union[float, Callable[[], float]] = 0.0) -> None:
        self._clock, self._latency = clock, latency

    def submit(self, ask: Ask, observation: Any, request: Optional[ChunkRequest]) -> SimulatedAnswer:
        latency = self._latency() if callable(self._latency) else self._latency
        return SimulatedAnswer(self._clock, self._clock.now() + latency, ask(observation, request))

    def close(self) -> None:
        """Nothing to end."""


class ThreadedInference:
    """Asks the policy in one thread of its own, so that the control loop never waits for it."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="policy")

    def submit(self, ask: Ask, observation: Any, request: Optional[ChunkRequest]) -> "Future[np.ndarray]":
        return self._pool.submit(ask, observation, request)

    def close(self) -> None:
        self._pool.shutdown(wait=False)


def run(
    controller: Controller,
    robot: Any,
    ask: Ask,
    *,
    clock: Union[SystemClock, SimulatedClock],
    inference: Union[ThreadedInference, SimulatedInference],
    steps: int,
) -> None:
    """Drive `robot` for `steps` control steps: `robot.state()`, `robot.observe()` for inference calls, `robot.act`.

    A robot whose states may be late has `robot.state_time()` as well: seconds on `clock` at which the last state was
    measured. A step that the robot makes late is not made up for. An error of the policy ends the loop, after the robot
    was sent a hold.
    """
    period = 1 / controller.safety.control_hz
    state_time = getattr(robot, "state_time", lambda: None)
    controller.safety.log_missing()
    due, pending = clock.now(), None
    try:
        for _ in range(steps):
            clock.sleep_until(due)
            due = max(due, clock.now() - period) + period
            state = robot.state()
            controller.observe(state, clock.now(), state_time())
            if pending is not None and pending.done():
                controller.answer(pending.result())
                pending = None
            if pending is None and controller.needs_chunk:
                pending = inference.submit(ask, robot.observe(), controller.request())
                if pending.done():
                    controller.answer(pending.result())
                    pending = None
            command = controller.act()
            if command is not None:
                robot.act(command)
    except BaseException:
        command = controller.safety.hold(controller.state, now=clock.now())
        if command is not None:
            robot.act(command)
        raise
    finally:
        inference.close()

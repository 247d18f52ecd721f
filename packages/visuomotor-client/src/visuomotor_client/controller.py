"""One command per control step: executor, delay and safety filter together. numpy only."""

from collections import deque
from copy import copy
from dataclasses import dataclass
from typing import Optional

import numpy as np

from visuomotor_client.chunking import ChunkExecutor, ChunkRequest
from visuomotor_client.safety import SafetyFilter

__all__ = ["Controller"]


@dataclass(frozen=True)
class _Look:
    """When the policy looked: control step, seconds, and where the robot was."""

    step: int
    now: float
    state: Optional[np.ndarray]


class Controller:
    """Turns what a policy answers, whenever it does, into one safe command per control step.

        while running:                                   # once per control step
            controller.observe(state, now)
            if controller.needs_chunk:
                request = controller.request()           # beside the observation; then, now or later:
                controller.answer(policy(observation, request))
            command = controller.act()                   # None: there is nothing that may be sent

    The delay of an answer is the number of control steps between `request` and `answer`. `stalls` counts steps for
    which no action was there, `seams` are the steps at which a new chunk took over.
    """

    def __init__(self, executor: ChunkExecutor, safety: SafetyFilter) -> None:
        self.executor, self.safety = executor, safety
        self.reset()

    def reset(self, *, moving: bool = False) -> None:
        """Forget chunks, state and step counts, for a new episode with the robot at rest.

        `moving`: a new instruction for a robot under way. The filter then remembers its motion.
        """
        self.executor.reset()
        if moving:
            self.safety.rebase()
        else:
            self.safety.reset()
        self.step, self.stalls = 0, 0
        self.seams: list[int] = []
        self.delays: deque[int] = deque(maxlen=1000)
        self.state: Optional[np.ndarray] = None
        self._now = 0.0
        self._state_time: Optional[float] = None
        self._asked: Optional[_Look] = None
        self._answered: Optional[_Look] = None

    @property
    def needs_chunk(self) -> bool:
        """True when the observation of this step should go to the policy."""
        return self.executor.needs_chunk

    def observe(self, state: Optional[np.ndarray], now: float, state_time: Optional[float] = None) -> None:
        """Take over the state float[s] of this control step, and the time in seconds.

        `state_time` is when it was measured, on the same clock; None: now.
        """
        # A copy: the chunk's start is this state even where the loop writes the next one into the same array.
        self.state, self._now, self._state_time = copy(state), now, state_time

    def request(self) -> Optional[ChunkRequest]:
        """The observation of this step goes to the policy; returns what the policy is to be told beside it."""
        self._asked = _Look(self.step, self._now, self.state)
        return self.executor.request()

    def cancel(self) -> None:
        """No answer will come to the last request."""
        self._asked = None
        self.executor.cancel()

    def answer(self, actions: np.ndarray) -> None:
        """The chunk [T, A] for the last request. Raises ChunkError, and goes on with the old chunk, if it is bad."""
        look = self._asked or _Look(self.step, self._now, self.state)
        self._asked = None
        delay = self.step - look.step
        self.executor.update(actions, delay)
        self._answered = look
        self.delays.append(delay)
        if self.step and (not self.seams or self.seams[-1] != self.step):
            self.seams.append(self.step)

    def act(self) -> Optional[np.ndarray]:
        """The command of this control step, float32[a]: the executor's action, or a hold where it has none."""
        look = self._answered
        start = None if look is None else look.state
        self.step += 1
        if not self.executor.ready:
            self.stalls += 1
            return self.safety.hold(self.state, now=self._now, start=start, state_time=self._state_time)
        return self.safety.apply(
            self.executor.next_action(),
            self.state,
            now=self._now,
            time=None if look is None else look.now,
            start=start,
            state_time=self._state_time,
        )

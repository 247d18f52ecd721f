"""How chunks of actions become one action per control step. numpy only: this also runs on the robot's computer.

A chunk is anchored at the control step whose observation it answers: its element k is meant for k steps later. So the
same executor serves a robot that waits for each chunk and one that goes on with the old chunk meanwhile.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import numpy as np

GUIDANCE = ("guided", "identity", "prefix")
DELAYS = 10  # measured delays that are remembered; the largest of them is expected next


class ChunkError(ValueError):
    """A chunk that must not reach a robot: wrong shape, or a number that is not finite."""


def check_chunk(actions: np.ndarray, action_dim: int) -> np.ndarray:
    """The chunk as float32[T, action_dim]; raises ChunkError when it has another shape or is not finite."""
    actions = np.asarray(actions)
    if actions.ndim != 2 or actions.shape[1] != action_dim or not len(actions):
        raise ChunkError(
            f"The policy gave actions of shape {list(actions.shape)}; expected [T, {action_dim}] with T > 0."
        )
    finite = np.isfinite(actions)
    if not finite.all():
        step, dim = (int(i) for i in np.argwhere(~finite)[0])
        raise ChunkError(
            f"The policy gave {int((~finite).sum())} non-finite action values; the first is "
            f"{actions[step, dim]} at step {step}, dimension {dim} of the chunk."
        )
    return actions.astype(np.float32)


@dataclass(frozen=True)
class ChunkRequest:
    """What a policy is told beside the observation, so that its chunk goes on from the one that runs.

    previous: float32[K, A] in robot units, what is left of the running chunk from this control step on.
    delay: how many of them will have been executed when the answer comes; at most K.
    guidance: "guided" (real-time chunking, with the true vector-Jacobian product), "identity" (the cheap variant that
    takes the Jacobian for the identity), "prefix" (the first `delay` actions are given, for models trained with it).
    """

    previous: np.ndarray
    delay: int
    guidance: str = "guided"

    def __post_init__(self) -> None:
        if self.guidance not in GUIDANCE:
            raise ValueError(f"Unknown guidance {self.guidance!r}; choose from {', '.join(GUIDANCE)}.")
        if np.ndim(self.previous) != 2 or not 0 <= self.delay <= len(self.previous):
            raise ValueError(
                f"A request has previous actions [K, A] and a delay of 0 to K of them; given shape "
                f"{list(np.shape(self.previous))} and delay {self.delay}."
            )


class ChunkExecutor:
    """What all executors share: which chunks speak about the present control step, and when the policy looks again.

    `needs_chunk` says that the policy should look now. A loop without latency calls `update` at once; one with latency
    calls `request` when it takes the observation, `update` when the answer is there, and `cancel` if none will come.
    `ready` says whether there is an action for this step: a synchronous robot waits while the policy thinks, an
    asynchronous one goes on with the chunk that it has.
    """

    def __init__(
        self,
        *,
        action_dim: int,
        execute: int,
        history: Optional[int],
        asynchronous: bool,
        guidance: Optional[str] = None,
    ) -> None:
        if execute < 1:
            raise ValueError(f"Expected to execute at least 1 action of a chunk; given execute={execute}.")
        if guidance is not None and guidance not in GUIDANCE:
            raise ValueError(f"Unknown guidance {guidance!r}; choose from {', '.join(GUIDANCE)}.")
        self.action_dim, self.execute, self.history = action_dim, execute, history
        self.asynchronous, self.guidance = asynchronous, guidance
        self.reset()

    def reset(self) -> None:
        """Forget all chunks and any request: a new episode or a new instruction starts."""
        self._chunks: deque[tuple[int, np.ndarray]] = deque(maxlen=self.history)  # (step it begins at, actions)
        self._step = 0  # actions executed so far
        self._asked: Optional[int] = None
        self.delays: deque[int] = deque(maxlen=DELAYS)

    @property
    def waiting(self) -> bool:
        """True between `request` and `update`."""
        return self._asked is not None

    @property
    def needs_chunk(self) -> bool:
        """True when the policy must look again.

        An asynchronous robot looks earlier than after `execute` actions if the rest would not last until the answer,
        as far as measured delays tell.
        """
        if self.waiting:
            return False
        if not self._chunks:
            return True
        first, actions = self._chunks[-1]
        lasts = max(len(actions) - max(self.delays), 1) if self.asynchronous else len(actions)
        return self._step - first >= min(self.execute, lasts)

    @property
    def ready(self) -> bool:
        """True when there is an action for this control step."""
        if not self.asynchronous and (self.waiting or self.needs_chunk):
            return False
        return next(self._newest_first(), None) is not None

    def request(self) -> Optional[ChunkRequest]:
        """The observation of this control step goes to the policy; returns what it is to be told beside it, if any."""
        self._asked = self._step
        if self.guidance is None or not self._chunks:
            return None
        first, actions = self._chunks[-1]
        previous = actions[self._step - first :]
        if not len(previous):
            return None
        return ChunkRequest(previous=previous, delay=min(max(self.delays), len(previous)), guidance=self.guidance)

    def cancel(self) -> None:
        """No answer will come to the last request; ask again."""
        self._asked = None

    def update(self, actions: np.ndarray, delay: Optional[int] = None) -> None:
        """Take a new chunk [T, action_dim] in robot units. Raises ChunkError and keeps the old ones if it is bad.

        `delay`: control steps since its observation, also those that passed without an action; None counts actions.
        """
        first = self._step if self._asked is None else self._asked
        self._asked = None
        self._chunks.append((first, check_chunk(actions, self.action_dim)))
        self.delays.append(self._step - first if delay is None else delay)

    def next_action(self) -> np.ndarray:
        """The action float32[action_dim] of this control step."""
        if not self.ready:
            raise RuntimeError("There is no action for this step; call update with a new chunk first.")
        action = self._blend(np.stack(list(self._newest_first())))
        self._step += 1
        while self._chunks and self._step - self._chunks[0][0] >= len(self._chunks[0][1]) and len(self._chunks) > 1:
            self._chunks.popleft()
        return action

    def _newest_first(self) -> Iterator[np.ndarray]:
        """What each chunk that has not ended says about this step."""
        for first, actions in reversed(self._chunks):
            if self._step - first < len(actions):
                yield actions[self._step - first]

    def _blend(self, candidates: np.ndarray) -> np.ndarray:
        """One action of candidates [K, A], newest first."""
        return candidates[0]


class RecedingHorizon(ChunkExecutor):
    """Run the first `execute` actions of each chunk, then ask for a new one.

        executor = RecedingHorizon(action_dim=7, execute=8)
        while running:
            if executor.needs_chunk:
                executor.update(policy.infer([observation])[0].actions)
            robot.step(executor.next_action())

    A chunk shorter than `execute` is run whole. `asynchronous`: the next chunk is asked for after `execute` actions and
    computed while the rest of this one runs; when it comes, its first actions, which are past, are left out. `guidance`
    (see ChunkRequest) then makes it real-time chunking: the policy is told what will run meanwhile.
    """

    def __init__(
        self, *, action_dim: int, execute: int, asynchronous: bool = False, guidance: Optional[str] = None
    ) -> None:
        if guidance == "prefix" and not asynchronous:
            raise ValueError(
                "A hard prefix is what runs while the policy thinks, but a synchronous robot waits; "
                "use asynchronous=True."
            )
        super().__init__(
            action_dim=action_dim, execute=execute, history=1, asynchronous=asynchronous, guidance=guidance
        )  # fmt: skip

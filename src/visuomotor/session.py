"""Protocol of policies, your own policy from a file, and the session: what a policy remembers of one robot."""

import inspect
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Protocol, runtime_checkable

import numpy as np

from visuomotor.contract import ActionChunk, Embodiment, Observation
from visuomotor.plugins import load

__all__ = ["PolicyLike", "Session", "own_policy"]

HISTORY = 16


@dataclass
class Session:
    """What is remembered of one robot between calls; the caller resets it when an episode starts.

    `seed` makes the n-th call of the session repeatable; `history` holds the latest chunks, oldest first.
    `progress` is how far the task was when the last chunk was asked for, for models with a progress token; from there
    it moves towards what was predicted for the chunk's end, as far as it was `executed`, in actions (None: all of it).
    """

    seed: int | None = None
    calls: int = 0
    text: dict[str, str] = field(default_factory=dict)
    text_call: int = 0
    executed: int | None = None
    progress: float = 0.0
    history: deque[ActionChunk] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def reset(self, seed: int | None = None) -> None:
        """Forget everything; go on with `seed`, or with the same seed when None."""
        self.seed = self.seed if seed is None else seed
        self.calls, self.text, self.text_call, self.progress = 0, {}, 0, 0.0
        self.history.clear()

    def call_seed(self) -> int:
        """A seed for this call: repeatable when the session has one."""
        if self.seed is None:
            return secrets.randbits(62)
        return int(np.random.SeedSequence((self.seed, self.calls)).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def remember(self, chunk: ActionChunk, *, fresh: bool) -> None:
        """Add a chunk that was sent. `fresh`: its text was written for it, not taken from the session."""
        self.progress = self.progress_now()
        if fresh:
            self.text, self.text_call = chunk.text, self.calls
        self.calls += 1
        self.history.append(chunk)

    def progress_now(self) -> float:
        """Progress after the last chunk was executed: p + (p_end - p) * executed / T, within 0-1 (DM0-Prog)."""
        if not self.history or "progress" not in self.history[-1].extras:
            return self.progress
        last = self.history[-1]
        steps = len(last.actions) if self.executed is None else min(self.executed, len(last.actions))
        moved = self.progress + (last.extras["progress"] - self.progress) * steps / len(last.actions)
        return min(max(moved, 0.0), 1.0)


@runtime_checkable
class PolicyLike(Protocol):
    """What evaluation, serving and play need of a policy: visuomotor.policy.Policy, or an object of your own.

    Optional attributes: `guidance`, the kinds of guidance that executors may ask for (`infer` then takes `requests`,
    one ChunkRequest or None for each observation); `path` of its checkpoint, and `provenance`, for the record.
    """

    @property
    def embodiment(self) -> Embodiment:
        """The robot that it drives."""
        ...

    def infer(
        self,
        observations: Sequence[Observation],
        sessions: Sequence[Session | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[ActionChunk]:
        """One chunk for each observation, in robot units; an observation comes with its robot's session and a seed.

        A chunk should depend on its own observation, session and seed alone, not on who shares the batch. A policy
        that remembers something calls `session.remember(chunk, fresh=True)`. A ValueError refuses an observation.
        A server calls it once with black images to warm up.
        """
        ...


def own_policy(reference: str, robot: Embodiment | None = None, **settings: Any) -> PolicyLike:
    """The policy that FILE.py:NAME names: an object, or a class or function that makes one.

    A class or function is called with `settings`, and with `embodiment=robot` if it takes that.

    Raises:
        ValueError: no such name, settings that it does not take, or a result that is no policy. FileNotFoundError.
    """
    value = load(reference, (PolicyLike, FunctionType, type), "a policy")
    if inspect.isclass(value) or inspect.isfunction(value):
        signature = inspect.signature(value)
        if "embodiment" in signature.parameters and robot is not None:
            settings["embodiment"] = robot
        try:
            signature.bind(**settings)
        except TypeError as error:
            raise ValueError(f"{reference} cannot be called so: {error}. It takes {signature}.") from error
        value = value(**settings)
    elif settings:
        raise ValueError(f"{reference} is a ready policy, so it takes no settings; got {', '.join(settings)}.")
    if not isinstance(value, PolicyLike):
        raise ValueError(f"{reference} made a {type(value).__name__}; a policy has `embodiment` and `infer`.")
    return value

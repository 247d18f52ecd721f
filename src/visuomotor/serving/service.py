"""What both protocols share: the policy behind its batcher, the safety filter, sessions, metrics, errors in words."""

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any
from weakref import WeakSet

import numpy as np
from visuomotor_client.chunking import ChunkError, check_chunk
from visuomotor_client.rotation import is_linear
from visuomotor_client.safety import SafetyFilter

import visuomotor
from visuomotor.contract import Embodiment, Observation
from visuomotor.serving.batching import Answer, Batcher, Overloaded
from visuomotor.serving.config import ServeConfig
from visuomotor.serving.connection import Inbox
from visuomotor.serving.metrics import ServingMetrics
from visuomotor.serving.observations import ObservationKeys
from visuomotor.serving.watching import Exchange, Watcher
from visuomotor.session import PolicyLike, Session

__all__ = ["Service"]

log = logging.getLogger("visuomotor.serving")

LOGGED = 20  # errors of a kind; from then on every thousandth


class Service:
    """A policy that is being served; handlers of the protocols ask it.

    watcher: is told of every exchange, where there is one.
    stopped: why all robots are stopped; None: they are not.
    """

    def __init__(self, policy: PolicyLike, config: ServeConfig) -> None:
        self.policy, self.config = policy, config
        self.ready = asyncio.Event()
        self.stopping = False
        self.inboxes: set[Inbox] = set()
        self.watcher: Watcher | None = None
        self.stopped: str | None = None
        self._filters: WeakSet[SafetyFilter] = WeakSet()
        self.metrics = ServingMetrics(
            connections=lambda: len(self.inboxes),
            waiting=lambda: self.batcher.waiting,
            ready=lambda: float(self.answers),
        )
        self.batcher = Batcher(
            policy,
            self.metrics,
            lambda: sum(inbox.present for inbox in self.inboxes),
            max_batch_size=config.max_batch_size,
            max_wait=config.max_wait,
            max_waiting=config.limits.waiting,
        )

    @property
    def embodiment(self) -> Embodiment:
        return self.policy.embodiment

    @property
    def answers(self) -> bool:
        """Whether requests are answered."""
        return self.ready.is_set() and not self.stopping and self.batcher.alive

    def metadata(self) -> dict[str, Any]:
        """What every client is told: the full embodiment, the checkpoint's provenance, versions."""
        provenance = getattr(self.policy, "provenance", {})
        return {
            "server": "visuomotor",
            "version": visuomotor.__version__,
            "embodiment": self.embodiment.to_json(),
            "provenance": provenance,
        }

    def session(self) -> Session:
        return Session(seed=self.config.seed)

    def safety(self) -> SafetyFilter:
        """A filter for one robot. ValueError where the limits do not fit the embodiment."""
        safety = SafetyFilter(self.embodiment, self.config.safety_limits, mode=self.config.safety)
        if self.stopped is not None:
            safety.stop(self.stopped)
        self._filters.add(safety)
        return safety

    def stop_robots(self, reason: str) -> None:
        """Every command from now on is a hold, also those that are being computed and those of clients to come.

        A chunk that a client has already got is out of reach. Like `release_robots`, for the event loop's thread alone.
        """
        self.stopped = reason
        log.warning("all robots are stopped", extra={"reason": reason, "clients": len(self.inboxes)})
        for safety in self._filters:
            safety.stop(reason)

    def release_robots(self) -> None:
        """End a stop: each robot moves again with its next request, for which the policy looks anew."""
        if self.stopped is not None:
            self.stopped = None
            log.warning("all robots are released")

    def released(self, safety: SafetyFilter) -> bool:
        """Whether a stop of this filter has been released since the last request; only here does the filter's end.

        So what was asked before the release is answered by a hold, however late.
        """
        if safety.stopped is None or self.stopped is not None:
            return False
        safety.release()
        return True

    async def read(self, keys: ObservationKeys, message: Any) -> Observation:
        """The observation in a message, on another thread where images have to be decoded; ValueError as there."""
        if keys.compressed(message):
            return await asyncio.to_thread(keys.read, message, instruction=self.config.instruction)
        return keys.read(message, instruction=self.config.instruction)

    async def act(self, observation: Observation, session: Session) -> Answer:
        """A chunk, finite and of the right shape, that no safety filter has seen.

        Raises:
            TimeoutError, Overloaded, or what the policy raises for this observation.
        """
        async with asyncio.timeout(self.config.limits.request_seconds):
            answer = await self.batcher.infer(observation, session)
        actions = check_chunk(answer.chunk.actions, self.embodiment.action_dim)
        return replace(answer, chunk=replace(answer.chunk, actions=actions))

    def tell(self, client: str, observation: Observation, answer: Answer, given: int = 0) -> None:
        """Tell the watcher, if there is one."""
        if self.watcher is not None:
            self.watcher.answered(Exchange(client=client, observation=observation, answer=answer, given=given))

    async def safe_chunk(self, safety: SafetyFilter, actions: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The chunk [T, A] that may be sent to a robot that was at `state`, whatever it was sent before.

        Where the robot is at the later commands is not known: differences per step are added up as if it did what it
        is told, and absolute targets are compared with those before.
        ValueError where the filter has nothing that may be sent.
        """
        if passes(safety, actions, state):
            return actions
        stopped = safety.stopped
        commands = await asyncio.to_thread(safety.chunk, actions, state)
        if safety.stopped != stopped:  # a stop that came meanwhile holds from the first command on
            commands = await asyncio.to_thread(safety.chunk, actions, state)
        return np.stack(self.counted(safety, commands))

    def counted(self, safety: SafetyFilter, commands: list[np.ndarray | None]) -> list[np.ndarray]:
        """What a filter has made of commands, after counting why; ValueError where that is nothing."""
        reasons = list(safety.counts)
        for reason in reasons:
            self.metrics.interventions.add(reason, amount=safety.counts.pop(reason))
        sent = [command for command in commands if command is not None]
        if len(sent) < len(commands):
            raise ValueError(f"The safety filter has nothing that may be sent ({', '.join(reasons)}).")
        return sent

    async def attempt(self, protocol: str, work: Awaitable[Any]) -> tuple[Any, str | None]:
        """(what `work` gives, None), or (None, a sentence for the client); counted and logged."""
        try:
            result = await work
        except Exception as error:
            kind, text = self._explain(error)
            self.metrics.requests.add(protocol, "error")
            self.report(protocol, kind, text, error if kind == "policy" else None)
            return None, text
        self.metrics.requests.add(protocol, "ok")
        return result, None

    def report(self, protocol: str, kind: str, text: str, error: Exception | None = None) -> None:
        """Count an error and log it, but not every one of thousands that a broken client causes."""
        self.metrics.errors.add(protocol, kind)
        count = int(self.metrics.errors.values[(protocol, kind)])
        if error is not None or count <= LOGGED or count % 1000 == 0:
            level = logging.WARNING if error is None else logging.ERROR
            about = {"protocol": protocol, "kind": kind, "error": text, "count": count}
            log.log(level, "request refused", extra=about, exc_info=error)

    def _explain(self, error: Exception) -> tuple[str, str]:
        """What kind of error it is, and a sentence for the client."""
        if isinstance(error, Overloaded):
            return "overloaded", str(error)
        if isinstance(error, TimeoutError):
            return "timeout", f"The policy did not answer within {self.config.limits.request_seconds:g} s."
        if isinstance(error, ValueError) and not isinstance(error, ChunkError):
            return "invalid", " ".join(str(error).split())
        return "policy", f"The policy failed: {type(error).__name__}: {' '.join(str(error).split())}"


def passes(safety: SafetyFilter, actions: np.ndarray, state: np.ndarray) -> bool:
    """Whether a filter without further limits would leave every command of a chunk [T, A] as it is, seen at a glance.

    The filter itself takes a tenth of a millisecond a command, milliseconds a chunk; False only means: it has to look.
    """
    if safety.stopped is not None or safety.has_motion_limits:
        return False
    for part in safety.parts:
        values = actions[:, part.where]
        if part.kind == "rotation" and not is_linear(str(part.rotation)):
            return False
        if (values < part.low).any() or (values > part.high).any():
            return False
        measured = part.measured(state)
        if part.base != "absolute" and measured is not None:
            place = measured + (np.cumsum(values, axis=0, dtype=np.float64) if part.base == "step" else values)
            low, high = part.measured_limits()  # in the action's unit, as the place is
            if (place < low).any() or (place > high).any():
                return False
    return True

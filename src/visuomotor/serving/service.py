"""What both protocols share: the policy behind its batcher, the safety filter, sessions, metrics, errors in words."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import visuomotor
from visuomotor.contract import Embodiment, Observation
from visuomotor.execution.chunking import ChunkError, check_chunk
from visuomotor.serving.batching import Answer, Batcher, Overloaded, Serves
from visuomotor.serving.config import ServeConfig
from visuomotor.serving.connection import Inbox
from visuomotor.serving.metrics import ServingMetrics
from visuomotor.session import Session

__all__ = ["Guard", "Service"]

log = logging.getLogger("visuomotor.serving")

LOGGED = 20  # errors of a kind; from then on every thousandth

Guard = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, Sequence[str]]]
"""A safety filter of one robot: (chunk [T, A], measured state [s]) -> (chunk that may be sent, reasons of changes)."""


class Service:
    """A policy that is being served; handlers of the protocols ask it.

    make_guard: gives each session its safety filter; None checks only that chunks are finite and of the right shape.
    """

    def __init__(
        self, policy: Serves, config: ServeConfig, make_guard: Callable[[Embodiment], Guard] | None = None
    ) -> None:
        self.policy, self.config = policy, config
        self.ready = asyncio.Event()
        self.stopping = False
        self.inboxes: set[Inbox] = set()
        self.make_guard = make_guard
        self.metrics = ServingMetrics(
            connections=lambda: len(self.inboxes),
            waiting=lambda: self.batcher.waiting,
            ready=lambda: float(self.ready.is_set() and not self.stopping),
        )
        self.batcher = Batcher(
            policy,
            self.metrics,
            lambda: len(self.inboxes),
            max_batch_size=config.max_batch_size,
            max_wait=config.max_wait,
            max_waiting=config.limits.waiting,
        )

    @property
    def embodiment(self) -> Embodiment:
        return self.policy.embodiment

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

    def guard(self) -> Guard | None:
        return None if self.make_guard is None else self.make_guard(self.embodiment)

    async def act(self, observation: Observation, session: Session, guard: Guard | None) -> Answer:
        """A chunk that may be sent.

        Raises:
            TimeoutError, Overloaded, or what the policy raises for this observation.
        """
        async with asyncio.timeout(self.config.limits.request_seconds):
            answer = await self.batcher.infer(observation, session)
        actions = check_chunk(answer.chunk.actions, self.embodiment.action_dim)
        if guard is not None:
            actions, reasons = guard(actions, observation.state)
            for reason in reasons:
                self.metrics.interventions.add(reason)
        return replace(answer, chunk=replace(answer.chunk, actions=actions))

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

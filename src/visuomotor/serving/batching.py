"""Requests of many clients in one forward pass of the policy, on a thread of its own."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from visuomotor.contract import ActionChunk, Observation
from visuomotor.serving.metrics import ServingMetrics
from visuomotor.session import PolicyLike, Session

__all__ = ["Answer", "Batcher", "Overloaded"]

log = logging.getLogger("visuomotor.serving")


class Overloaded(RuntimeError):
    """Too many requests wait already, or the server is stopping; the request was not taken."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A chunk, seconds that its request waited, seconds of the forward pass, and how many requests shared that."""

    chunk: ActionChunk
    waited: float
    inference: float
    batch_size: int = 1


@dataclass(eq=False, kw_only=True)
class _Request:
    observation: Observation
    session: Session
    seed: int
    answer: asyncio.Future[Answer]
    arrived: float = field(default_factory=time.perf_counter)


class Batcher:
    """Collects requests and answers them together.

    A forward pass starts when `max_batch_size` requests wait, when as many wait as `clients()` says are there to ask,
    or `max_wait` seconds after the first of them. What comes while one runs goes into the next. Each request's noise
    comes from its own seed, drawn when it arrives, so its chunk does not depend on who shares the batch. Where a batch
    fails, its requests are tried one by one, and only those that fail alone get the error.
    """

    def __init__(
        self,
        policy: PolicyLike,
        metrics: ServingMetrics,
        clients: Callable[[], int],
        *,
        max_batch_size: int,
        max_wait: float,
        max_waiting: int,
    ) -> None:
        self.policy, self.metrics, self.clients = policy, metrics, clients
        self.max_batch_size, self.max_wait, self.max_waiting = max_batch_size, max_wait, max_waiting
        self._queue: asyncio.Queue[_Request] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    @property
    def alive(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="batcher")

    async def infer(self, observation: Observation, session: Session) -> Answer:
        """The policy's answer. Overloaded where too many wait; else what the policy raises for this observation."""
        if not self.alive or self.waiting >= self.max_waiting:
            raise Overloaded(
                f"The policy is not running, or too many requests ({self.waiting}) wait for it; try later."
            )
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(
            _Request(observation=observation, session=session, seed=session.call_seed(), answer=future)
        )
        return await future

    async def in_thread(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """A forward pass by itself, for warming up."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, _infer, self.policy, observations)

    async def close(self) -> None:
        """Stop; requests that still wait are told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        while not self._queue.empty():
            _settle(self._queue.get_nowait().answer, Overloaded("The server is stopping."))
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            await self._fill(batch)
            batch = [request for request in batch if not request.answer.done()]  # others were given up by their client
            if not batch:
                continue
            started = time.perf_counter()
            running = loop.run_in_executor(self._thread, _forward, self.policy, batch)
            try:
                results = await asyncio.shield(running)
            except asyncio.CancelledError:
                for request, result in zip(batch, await running, strict=True):  # what runs is answered also at the end
                    _settle(request.answer, _answer(request, result, started, len(batch)))
                raise
            self.metrics.batches.observe(len(batch))
            self.metrics.inference.observe(time.perf_counter() - started)
            for request, result in zip(batch, results, strict=True):
                _settle(request.answer, _answer(request, result, started, len(batch)))

    async def _fill(self, batch: list[_Request]) -> None:
        """Add what waits, and what comes before the first request's deadline."""
        deadline = batch[0].arrived + self.max_wait
        while len(batch) < self.max_batch_size:
            if not self._queue.empty():
                batch.append(self._queue.get_nowait())
                continue
            left = deadline - time.perf_counter()
            if left <= 0 or len(batch) >= self.clients():
                return
            try:
                batch.append(await asyncio.wait_for(self._queue.get(), left))
            except TimeoutError:
                return


def _infer(policy: PolicyLike, observations: Sequence[Observation], *given: Any) -> list[ActionChunk]:
    try:
        return policy.infer(observations, *given)
    except StopIteration as error:  # a future cannot hold one, so whoever waits for it would wait for ever
        raise RuntimeError("The policy raised StopIteration.") from error


def _forward(policy: PolicyLike, batch: Sequence[_Request]) -> list[ActionChunk | Exception]:
    """A chunk or an error for each request; runs on the policy's thread."""
    try:
        observations = [request.observation for request in batch]
        sessions, seeds = [request.session for request in batch], [request.seed for request in batch]
        chunks = _infer(policy, observations, sessions, seeds)
        if len(chunks) != len(batch):
            raise RuntimeError(f"The policy gave {len(chunks)} chunks for {len(batch)} observations.")
        return list(chunks)
    except Exception as error:
        if len(batch) == 1:
            return [error]
        log.warning("a batch failed and is tried one by one", extra={"size": len(batch), "error": repr(error)})
        return [result for request in batch for result in _forward(policy, [request])]


def _answer(request: _Request, result: ActionChunk | Exception, started: float, size: int) -> Answer | Exception:
    if isinstance(result, Exception):
        return result
    inference = time.perf_counter() - started
    return Answer(chunk=result, waited=started - request.arrived, inference=inference, batch_size=size)


def _settle(future: asyncio.Future[Answer], result: Answer | Exception) -> None:
    if future.done():  # its client is gone, or its time was over
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)

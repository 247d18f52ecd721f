"""Protocol of worker pools: workers with a state of their own, each of which does one job at a time.

    with closing(LocalPool(Recorder, (plan,), count=2)) as pool:
        pool.submit(job, worker=pool.idle[0])
        finished = pool.next()

A pool may run its workers as processes on this machine (`LocalPool`), as actors of a cluster, or in the interpreter of
another environment. A caller whose results depend neither on which worker did a job nor on the order in which jobs end
gets the same results from every pool and from any number of workers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Finished", "MakePool", "Setup", "WorkerPool"]

Setup = Callable[..., Callable[[Any], Any]]
"""Called once in every worker; its result is called with each job. A `close` of that result is called at the end."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Outcome of `job` on `worker`: its `value`, the `error` that it raised, or the reason why the worker `died`."""

    job: Any
    worker: int
    value: Any = None
    error: BaseException | None = None
    died: str | None = None


class WorkerPool(Protocol):
    """Workers 0, 1, ... that keep their state between jobs. A worker that dies loses its state and is replaced."""

    @property
    def idle(self) -> list[int]:
        """Workers that have no job."""
        ...

    @property
    def busy(self) -> int:
        """Number of jobs under way."""
        ...

    def submit(self, job: Any, worker: int) -> None:
        """Give a job to an idle worker."""
        ...

    def next(self) -> Finished:
        """Wait for any job under way to end, also by the death of its worker.

        Raises:
            RuntimeError: a worker could not start.
        """
        ...

    def close(self) -> None:
        """End the workers; jobs under way are lost."""
        ...


MakePool = Callable[[Setup, tuple[Any, ...], int], WorkerPool]
"""A pool's constructor: setup, its arguments, number of workers. A worker calls its setup at its first job."""

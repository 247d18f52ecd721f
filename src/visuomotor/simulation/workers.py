"""Worker processes that each do one job at a time; one that dies or hangs is noticed and replaced."""

import contextlib
import logging
import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

Setup = Callable[..., Callable[[Any], Any]]

logger = logging.getLogger(__name__)
PATIENCE = 600.0  # seconds after which a job counts as hung, and its process is ended


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What became of `job`: its `value`, or the `error` that it raised, or the exit code of the process that died."""

    job: Any
    value: Any = None
    error: BaseException | None = None
    exit_code: int | None = None


@dataclass
class _Worker:
    process: SpawnProcess
    connection: Connection
    job: Any = None
    since: float = 0.0


class WorkerPool:
    """`count` processes; each calls `setup(*arguments)` once, and what that returns for every job.

    `setup` must be importable in a new process, jobs and values picklable. A context manager: leaving it ends the
    processes.
    """

    def __init__(self, setup: Setup, arguments: tuple[Any, ...], count: int) -> None:
        self._setup, self._arguments = setup, arguments
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start() for _ in range(count)]

    @property
    def idle(self) -> int:
        """How many workers have no job."""
        return sum(worker.job is None for worker in self._workers)

    @property
    def jobs(self) -> list[Any]:
        """The jobs under way."""
        return [worker.job for worker in self._workers if worker.job is not None]

    def submit(self, job: Any) -> None:
        """Give a job to an idle worker; one that has died is replaced first."""
        index = next(i for i, worker in enumerate(self._workers) if worker.job is None)
        try:
            self._workers[index].connection.send(job)
        except OSError:
            self._workers[index] = self._start()
            self._workers[index].connection.send(job)
        self._workers[index].job, self._workers[index].since = job, time.monotonic()

    def next(self) -> Finished:
        """Wait for a job to end, be it by the death of its process; `submit` may then give it out again.

        A process that is silent for PATIENCE seconds is ended, which counts as its death.
        """
        busy = [worker for worker in self._workers if worker.job is not None]
        while not (ready := wait([worker.connection for worker in busy], timeout=PATIENCE / 10)):
            for worker in busy:
                if time.monotonic() - worker.since > PATIENCE:
                    logger.warning("A worker was silent for %.0f s and is ended; its job was %s", PATIENCE, worker.job)
                    worker.process.kill()
        index = next(i for i, worker in enumerate(self._workers) if worker.connection in ready)
        worker = self._workers[index]
        try:
            value, error = worker.connection.recv()
        except (EOFError, OSError):
            worker.process.join()
            finished = Finished(job=worker.job, exit_code=worker.process.exitcode)
        else:
            finished = Finished(job=worker.job, value=value, error=error)
        worker.job = None
        return finished

    def close(self) -> None:
        """End the processes; a job under way is lost."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._setup, self._arguments), daemon=True)
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(process, ours)


def _work(connection: Connection, setup: Setup, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            job = connection.recv()
        except (EOFError, ConnectionResetError):
            return  # the parent is gone
        try:
            work = work or setup(*arguments)
            answer = (work(job), None)
        except Exception as error:
            error.add_note(traceback.format_exc())
            answer = (None, _portable(error))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(answer)


def _portable(error: Exception) -> Exception:
    """The error itself, or one of a plain type with its text when it would not survive the way between processes."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError) and error.errno is not None:
            return OSError(error.errno, text)
        return RuntimeError(text)

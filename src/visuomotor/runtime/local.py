"""Worker processes on this machine; one that dies or hangs is noticed and replaced.

Workers share neither threads nor a graphics context with this process. Where the system has it, a server process that
has imported the libraries once makes them: a worker then starts in a fraction of a second, also when it replaces one
that died.
"""

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
from multiprocessing.process import BaseProcess
from typing import Any

from visuomotor.runtime.pool import Finished, Setup

__all__ = ["PATIENCE", "LocalPool"]

logger = logging.getLogger(__name__)
PATIENCE = 600.0  # seconds after which a job counts as hung, and its process is ended
FAREWELL = 5.0  # seconds that an idle process has to close what its setup opened


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    started: bool = False
    busy: bool = False
    job: Any = None
    since: float = 0.0


class LocalPool:
    """A WorkerPool of `count` processes. `setup` must be importable in a new process, arguments, jobs and values
    picklable. A script that makes one needs `if __name__ == "__main__":`, because its workers import it.

    Raises:
        ValueError: `setup` or `arguments` cannot be pickled.
    """

    def __init__(self, setup: Setup, arguments: tuple[Any, ...], count: int) -> None:
        try:
            pickle.dumps((setup, arguments))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{error}: worker processes get it by pickle. Define functions at the top of a module, or give a world "
                f"as FILE.py:NAME, which each process loads itself."
            ) from error
        self._setup, self._arguments = setup, arguments
        forks = "forkserver" in multiprocessing.get_all_start_methods()
        self._context = multiprocessing.get_context("forkserver") if forks else multiprocessing.get_context("spawn")
        self._context.set_forkserver_preload([setup.__module__])
        self._workers = [self._start() for _ in range(count)]

    @property
    def idle(self) -> list[int]:
        """Workers that have no job."""
        return [index for index, worker in enumerate(self._workers) if not worker.busy]

    @property
    def busy(self) -> int:
        """Number of jobs under way."""
        return len(self._workers) - len(self.idle)

    def submit(self, job: Any, worker: int) -> None:
        """Give a job to an idle worker. If its process has died meanwhile, `next` says so."""
        chosen = self._workers[worker]
        with contextlib.suppress(OSError):
            chosen.connection.send(job)
        chosen.job, chosen.busy, chosen.since = job, True, time.monotonic()

    def next(self) -> Finished:
        """Wait for a job to end. A process that is silent for PATIENCE seconds is ended, which counts as its death.

        Raises:
            RuntimeError: a process ended before it could take a job.
        """
        while True:
            busy = {worker.connection: index for index, worker in enumerate(self._workers) if worker.busy}
            for connection in wait(list(busy), timeout=PATIENCE / 10):
                if (finished := self._receive(busy[connection])) is not None:  # type: ignore[index]
                    return finished
            for index in busy.values():
                self._end_if_hung(self._workers[index])

    def close(self) -> None:
        """End the processes: idle ones close what they opened, busy ones are stopped, and their jobs are lost."""
        for worker in self._workers:
            if worker.busy:
                worker.process.terminate()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(timeout=FAREWELL)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._setup, self._arguments)
        process = self._context.Process(target=_work, args=arguments, daemon=True, name="visuomotor-worker")
        process.start()
        theirs.close()  # so that the end of the process is the end of the pipe
        return _Worker(process, ours)

    def _receive(self, index: int) -> Finished | None:
        """The outcome of a worker's job; None for its first message, which says that it has started."""
        worker = self._workers[index]
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            return self._replace(index)
        if not worker.started:
            worker.started = True
            return None
        value, error = message
        finished = Finished(job=worker.job, worker=index, value=value, error=error)
        worker.job, worker.busy = None, False
        return finished

    def _replace(self, index: int) -> Finished:
        worker = self._workers[index]
        worker.process.join(timeout=FAREWELL)
        died = f"exit code {worker.process.exitcode}"
        if not worker.started:
            raise RuntimeError(
                f"A worker process could not start ({died}; its error is above). A script that collects or evaluates "
                f"needs `if __name__ == '__main__':` around that, because workers import the script."
            )
        worker.connection.close()
        self._workers[index] = self._start()
        return Finished(job=worker.job, worker=index, died=died)

    def _end_if_hung(self, worker: _Worker) -> None:
        if worker.busy and time.monotonic() - worker.since > PATIENCE and worker.process.is_alive():
            logger.warning("Worker process %s was silent for %.0f s and is ended", worker.process.pid, PATIENCE)
            worker.process.kill()


def _work(connection: Connection, setup: Setup, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    work: Callable[[Any], Any] | None = None
    with contextlib.suppress(
        EOFError, BrokenPipeError, ConnectionResetError
    ):  # the pool is closed, or its process gone
        connection.send(None)  # it has started
        while True:
            job = connection.recv()
            try:
                work = work or setup(*arguments)
                answer = (work(job), None)
            except Exception as error:
                error.add_note(traceback.format_exc())
                answer = (None, _portable(error))
            connection.send(answer)
    close = getattr(work, "close", None)
    if close is not None:
        close()


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

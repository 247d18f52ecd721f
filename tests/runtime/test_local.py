"""Worker processes: they keep their state, report errors, and are replaced when they die or hang."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from visuomotor.runtime import local
from visuomotor.runtime.local import LocalPool
from visuomotor.runtime.pool import Finished, WorkerPool


class Odd(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class Counter:
    """Counts its jobs; every mishap on request."""

    def __init__(self, farewell: Path) -> None:
        self.farewell, self.jobs = farewell, 0

    def __call__(self, job: str) -> tuple[int, int]:
        self.jobs += 1
        if job == "raise":
            raise ValueError("a bad job")
        if job == "odd":
            raise Odd(1, 2)
        if job == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job == "hang":
            time.sleep(600)
        return self.jobs, os.getpid()

    def close(self) -> None:
        (self.farewell / str(os.getpid())).touch()


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[WorkerPool]:
    with closing(LocalPool(Counter, (tmp_path,), 2)) as made:
        yield made


def ask(pool: WorkerPool, job: str, worker: int = 0) -> Finished:
    pool.submit(job, worker)
    return pool.next()


def test_a_job_goes_to_its_worker_which_keeps_its_state(pool: WorkerPool) -> None:
    assert (pool.idle, pool.busy) == ([0, 1], 0)
    pool.submit("a", 0)
    pool.submit("b", 1)
    assert (pool.idle, pool.busy) == ([], 2)
    first, second = sorted((pool.next(), pool.next()), key=lambda finished: finished.worker)
    assert (first.job, first.value[0], second.job, second.value[0]) == ("a", 1, "b", 1)
    assert first.value[1] != second.value[1]
    assert ask(pool, "c", 1).value == (2, second.value[1])


def test_an_error_comes_back_with_its_traceback_and_the_worker_goes_on(pool: WorkerPool) -> None:
    process = ask(pool, "a").value[1]
    failed = ask(pool, "raise")
    assert isinstance(failed.error, ValueError)
    assert "in __call__" in failed.error.__notes__[0]
    odd = ask(pool, "odd").error
    assert isinstance(odd, RuntimeError)
    assert str(odd) == "Odd: 1 and 2"
    assert ask(pool, "a").value == (4, process)


def test_a_worker_that_dies_is_replaced_by_one_without_its_state(pool: WorkerPool) -> None:
    assert ask(pool, "a").value[0] == 1
    dead = ask(pool, "die")
    assert (dead.job, dead.worker, dead.died) == ("die", 0, "exit code -9")
    assert ask(pool, "a").value[0] == 1


def test_a_death_between_two_jobs_is_reported_with_the_second(pool: WorkerPool) -> None:
    """The worker's state is lost, so that its caller must hear of it."""
    os.kill(ask(pool, "a").value[1], signal.SIGKILL)
    time.sleep(0.2)
    assert ask(pool, "b").died == "exit code -9"
    assert ask(pool, "b").value[0] == 1


def test_a_silent_worker_is_ended(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ask(pool, "a")
    monkeypatch.setattr(local, "PATIENCE", 0.5)
    assert ask(pool, "hang").died == "exit code -9"
    assert "was silent for 0 s" in caplog.text


def test_the_end_closes_idle_workers_and_stops_busy_ones(tmp_path: Path) -> None:
    with closing(LocalPool(Counter, (tmp_path,), 2)) as pool:
        process = ask(pool, "a").value[1]
        pool.submit("hang", 1)
    assert [path.name for path in tmp_path.iterdir()] == [str(process)]


def test_what_cannot_be_pickled_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lambda.* Define functions at the top of a module, or give a world as FILE"):
        LocalPool(Counter, (lambda: tmp_path,), 1)


def test_a_worker_that_cannot_start_is_no_death(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghost: Any = ModuleType("only_in_this_process")
    ghost.Kind = type("Kind", (), {"__module__": ghost.__name__})
    monkeypatch.setitem(sys.modules, ghost.__name__, ghost)
    message = r"could not start \(exit code 1; .*if __name__ == '__main__'"
    with closing(LocalPool(Counter, (ghost.Kind,), 1)) as pool, pytest.raises(RuntimeError, match=message):
        ask(pool, "a")

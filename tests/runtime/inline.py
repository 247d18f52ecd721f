"""A pool without processes: jobs are done in this one when somebody waits for them, the newest first."""

from typing import Any

from visuomotor.runtime.pool import Finished, Setup


class InlinePool:
    def __init__(self, setup: Setup, arguments: tuple[Any, ...], count: int) -> None:
        self.works = [setup(*arguments) for _ in range(count)]
        self.jobs: dict[int, Any] = {}

    @property
    def idle(self) -> list[int]:
        return [index for index in range(len(self.works)) if index not in self.jobs]

    @property
    def busy(self) -> int:
        return len(self.jobs)

    def submit(self, job: Any, worker: int) -> None:
        assert worker not in self.jobs
        self.jobs[worker] = job

    def next(self) -> Finished:
        worker, job = self.jobs.popitem()
        return Finished(job=job, worker=worker, value=self.works[worker](job))

    def close(self) -> None:
        for work in self.works:
            work.close()

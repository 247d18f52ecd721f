"""Make the attempts of a collection: hand scenarios to worker processes until enough of them have succeeded."""

import dataclasses
import errno
import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

from visuomotor.contract import Scenario
from visuomotor.runtime.pool import Finished, MakePool, WorkerPool
from visuomotor.simulation.collect_plan import SCENES_PER_EPISODE, CollectPlan, CollectProgress, Progress
from visuomotor.simulation.interface import WorldSpec, load_world, make_environment, make_scenarios, world_for_workers
from visuomotor.simulation.options import named_options
from visuomotor.simulation.recording import record_demonstration, record_scenes
from visuomotor.simulation.staging import Attempt, Staging, Video
from visuomotor.versions import commit, installed

logger = logging.getLogger(__name__)

TRIES = 2  # how often a scenario is given to a worker when workers die with it


class AttemptMaker:
    """One run of the workers. `crashes` counts the processes that died."""

    def __init__(
        self,
        plan: CollectPlan,
        world: str | WorldSpec,
        staging: Staging,
        progress: Progress | None,
        make_pool: MakePool,
    ) -> None:
        self._plan, self._staging, self._progress = plan, staging, progress
        self._start, self._tries = time.monotonic(), dict[int, int]()
        self._world, self._make_pool = world_for_workers(world), make_pool
        count = plan.wanted if plan.scenes else plan.wanted * plan.max_attempts_factor
        self._scenarios = make_scenarios(world, plan.split, count, plan.seed, **plan.options)
        self._attempts = staging.attempts()
        self.crashes = 0
        for index, attempt in self._attempts.items():
            if index >= count or _plain(attempt.scenario) != _plain(self._scenarios[index]):
                raise ValueError(
                    f"Attempt {index} in {staging.root} was made for another scenario than the plan now gives: the "
                    f"world's scenarios have changed since. Collect again with --overwrite."
                )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def run(self) -> list[Attempt]:
        """All attempts in the order of the scenarios, exactly as many successes among them as the plan wants."""
        self.tell("recording")
        waiting = iter([index for index in range(len(self._scenarios)) if index not in self._attempts])
        if (missing := self._missing()) > 0:
            arguments = (self._plan, self._world, self._staging.root)
            count = min(self._plan.workers, missing)
            with closing(self._make_pool(Recorder, arguments, count)) as pool:
                self._fill(pool, waiting)
                while pool.busy:
                    self._take(pool, pool.next())
                    self._fill(pool, waiting)
        if (missing := self._missing()) > 0:
            raise RuntimeError(self._too_few(missing))
        return [self._attempts[index] for index in sorted(self._attempts)]

    def tell(self, phase: Literal["recording", "assembling"]) -> None:
        """Report progress."""
        kept = [attempt for attempt in self._attempts.values() if attempt.success]
        done = sum(attempt.frames for attempt in kept) if self._plan.scenes else len(kept)
        if self._progress is not None:
            self._progress(
                CollectProgress(
                    done=done,
                    total=self._plan.scenes or self._plan.episodes,
                    failures=len(self._attempts) - len(kept),
                    seconds=self.seconds,
                    phase=phase,
                )
            )

    def _missing(self, under_way: int = 0) -> int:
        kept = sum(attempt.success for attempt in self._attempts.values())
        return self._plan.wanted - kept - under_way

    def _fill(self, pool: WorkerPool, waiting: Iterator[int]) -> None:
        # A scenario is handed out only while it is needed even if all those under way succeed. So the scenarios tried
        # are always the first ones, the last of them is a success, and their number does not depend on timing.
        for worker in pool.idle:
            if self._missing(pool.busy) > 0 and (index := next(waiting, None)) is not None:
                pool.submit((index, self._scenarios[index]), worker)

    def _take(self, pool: WorkerPool, finished: Finished) -> None:
        index, scenario = finished.job
        where = f"scenario {index} ({scenario.task!r}, seed {scenario.seed})"
        if finished.error is not None:
            if isinstance(finished.error, OSError) and finished.error.errno == errno.ENOSPC:
                raise finished.error
            kind = ValueError if isinstance(finished.error, ValueError) else RuntimeError
            raise kind(f"Collecting {where} failed: {finished.error}") from finished.error
        if finished.died is not None:
            self.crashes += 1
            self._tries[index] = self._tries.get(index, 1) + 1
            died = f"A worker process died ({finished.died}) in {where}"
            if self._tries[index] > TRIES:
                raise RuntimeError(
                    f"{died}, as one did before. Finished attempts are kept in {self._staging.root}: go on with "
                    f"--resume, and with fewer workers if memory ran out."
                )
            logger.warning("%s; a new one tries it again.", died)
            pool.submit(finished.job, finished.worker)
            return
        self._attempts[index] = finished.value
        self.tell("recording")

    def _too_few(self, missing: int) -> str:
        failed: dict[str, int] = {}
        for attempt in self._attempts.values():
            if not attempt.success:
                failed[attempt.task] = failed.get(attempt.task, 0) + 1
        worst = ", ".join(f"{task} {count}" for task, count in sorted(failed.items(), key=lambda item: -item[1]))
        return (
            f"Only {self._plan.wanted - missing} of {self._plan.wanted} demonstrations succeeded in "
            f"{len(self._attempts)} attempts (failures: {worst}). The successes are kept in {self._staging.root}: "
            f"go on with --resume and a larger max_attempts_factor, or with other tasks or less action noise."
        )


class Recorder:
    """Lives in a worker process: an environment, and the attempts that are made in it."""

    def __init__(self, plan: CollectPlan, world: str | WorldSpec, staging: Path) -> None:
        self._plan, self._staging, self._world = plan, Staging(staging), load_world(world)
        quality = named_options(self._world.make, {"render_quality": plan.render_quality})
        self._env = make_environment(self._world, **{**quality, **plan.options})
        self._staging.describe(
            {
                "embodiment": self._env.embodiment.to_json(),
                "render_quality": self._env.render_quality,
                "versions": _versions(),
            }
        )

    def __call__(self, job: tuple[int, Scenario]) -> Attempt:
        index, scenario = job
        plan, env = self._plan, self._env
        if plan.scenes:
            count = min(SCENES_PER_EPISODE, plan.scenes - index * SCENES_PER_EPISODE)
            episode = record_scenes(self._world, env, scenario, count, plan.seed)
        else:
            episode = record_demonstration(self._world, env, scenario, plan.action_noise, plan.seed)
        video = Video(fps=env.embodiment.control_hz, codec=plan.codec) if plan.storage == "video" else None
        return self._staging.write(index, scenario, episode, video)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def _plain(scenario: Scenario) -> str:
    return json.dumps(dataclasses.asdict(scenario), sort_keys=True)


def _versions() -> dict[str, str]:
    """Versions of this code (with the commit, in a checkout) and of the simulators."""
    found = commit()
    return installed(("visuomotor", "mujoco", "metaworld", "numpy", "av")) | ({"commit": found} if found else {})

"""Roll a policy out in a simulator: `evaluate(policy, plan, out) -> Results`.

Environments live in worker processes of their own (a script that calls `evaluate` needs `if __name__ == "__main__":`),
the policy in this one. Jobs are cut into shards that depend on the plan alone; a shard runs on one worker, up to
`LOCKSTEP` episodes at once, and each of its rounds is one batch for the policy. So neither the noise nor the batches,
and with them the successes, depend on the number of workers.
"""

import errno
import hashlib
import json
import logging
import math
import shutil
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from visuomotor_client.chunking import ChunkRequest
from visuomotor_client.executors import guidance_of, make_executor
from visuomotor_client.safety import SafetyFilter

from visuomotor.contract import ActionChunk, EvalPlan, Observation, Scenario
from visuomotor.evaluation.controls import CONTROLS, Job, plan_jobs, require_disjoint
from visuomotor.evaluation.provenance import describe_run
from visuomotor.evaluation.results import (
    RECORDS_FILE,
    RESULTS_FILE,
    EpisodeRecord,
    Results,
    append_record,
    read_records,
    summarise,
)
from visuomotor.evaluation.workers import Answer, Report, RolloutWorker, Round, Setup, Start
from visuomotor.locks import FolderLock
from visuomotor.runtime.local import LocalPool
from visuomotor.runtime.pool import Finished, MakePool, WorkerPool
from visuomotor.session import PolicyLike, Session
from visuomotor.simulation.interface import WorldSpec, make_environment, world_for_workers

logger = logging.getLogger(__name__)

LOCKSTEP = 8  # episodes that one worker runs at once
SHARD = 4 * LOCKSTEP  # most jobs of a shard
FILMED_FACTOR = 4  # a condition films at most this many times the videos it keeps of each outcome
PLAN_FILE = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where an evaluation stands."""

    done: int
    total: int
    successes: int
    failures: int


def evaluate(
    policy: PolicyLike,
    plan: EvalPlan,
    out: Path,
    *,
    world: WorldSpec | None = None,
    origin: Path | None = None,
    make_pool: MakePool = LocalPool,
    workers: int = 2,
    videos: int = 4,
    controls: Sequence[str] = CONTROLS,
    training_scenarios: Iterable[Mapping[str, Any]] = (),
    progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    break_lock: bool = False,
) -> Results:
    """Roll `policy` out as planned; writes results.jsonl (each episode at once), results.json and videos to `out`.

    `world` is the one that `plan.environment` names, for a world that has no name in this library and no file;
    `make_pool` makes the workers.
    `origin`: the checkpoint or FILE.py:NAME of the policy, recorded with its hash (default: its `path`, if any).
    `videos` successes and as many failures are kept per condition. `training_scenarios` (the data set's `scenario`
    infos) must not share a seed with the plan. `resume` continues an interrupted evaluation of the same plan.
    Raises ValueError when policy and environment are of different embodiments, FileExistsError when `out` already
    holds an evaluation, FolderInUse when another process or thread writes there (see `FolderLock`, also for
    `break_lock`).
    """
    out = Path(out)
    if workers < 1:
        raise ValueError(f"An evaluation needs at least 1 worker; given {workers}.")
    jobs = plan_jobs(plan, controls, world)
    require_disjoint(jobs, training_scenarios)
    run, setup = _prepare(policy, plan, world or plan.environment, origin, out)
    run["conditions"] = list(dict.fromkeys(job.condition for job in jobs))
    wanted = {job.key for job in jobs}
    with FolderLock(out, nested=True, break_lock=break_lock):
        records = _open_folder(out, run, resume=resume, overwrite=overwrite)
        done = {(r.condition, r.index): r for r in records if (r.condition, r.index) in wanted}
        session = _Session(policy, setup, jobs, done, videos, progress)
        try:
            session.run(make_pool, workers)
            results = summarise(run, session.records.values())
            results.save(out)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(
                f"The disk of {out} is full. {len(session.records)} of {len(jobs)} episodes are recorded; free some "
                "space and continue with --resume."
            ) from error
    return results


def noise_seed(scenario: Scenario, call: int) -> int:
    """The seed of the policy's noise at its `call`-th look (32 bits), from the scenario alone."""
    name = f"{scenario.environment}/{scenario.task}/{scenario.seed}/{call}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def make_shards(jobs: Sequence[Job]) -> list[list[Job]]:
    """Cut jobs into runs of neighbours: at least four together, at most SHARD, about sixteen shards in between."""
    size = min(max(-(-len(jobs) // 16), 4), SHARD)
    return [list(jobs[start : start + size]) for start in range(0, len(jobs), size)]


def _prepare(
    policy: PolicyLike, plan: EvalPlan, world: str | WorldSpec, origin: Path | None, out: Path
) -> tuple[dict[str, Any], Setup]:
    """Check that policy, executor and environment fit, before anything starts."""
    if not 0 <= plan.latency < math.inf:
        raise ValueError(f"The latency is {plan.latency} s; give 0 or more seconds.")
    guidance = guidance_of(plan.executor)
    if guidance is not None and guidance not in getattr(policy, "guidance", ()):
        raise ValueError(
            f"The executor {plan.executor!r} needs a policy with {guidance!r} guidance, which this one does not have; "
            f"choose asynchronous or receding_horizon."
        )
    environment = make_environment(world, **plan.options)
    path = origin or getattr(policy, "path", None)
    try:
        policy.embodiment.require_compatible(
            environment.embodiment,
            this=f"Checkpoint {path}" if path else "The policy",
            that=f"environment {plan.environment!r}",
        )
        executor = make_executor(plan.executor, environment.embodiment, execute=plan.execute)
        SafetyFilter(environment.embodiment, mode=plan.safety)
        run = describe_run(policy, path, plan, environment)
    finally:
        environment.close()
    setup = Setup(
        world=world_for_workers(world),
        options=plan.options,
        execute=executor.execute,
        max_steps=plan.max_steps,
        out=out,
        executor=plan.executor,
        latency=plan.latency,
        safety=plan.safety,
    )
    return run, setup


def _open_folder(out: Path, run: dict[str, Any], *, resume: bool, overwrite: bool) -> list[EpisodeRecord]:
    """Make `out` ready and return what it already holds for the same plan."""
    plan_path, records_path = out / PLAN_FILE, out / RECORDS_FILE
    identity = json.loads(json.dumps({"plan": run["plan"], "checkpoint_hash": run["checkpoint_hash"]}))
    if overwrite:
        shutil.rmtree(out / "videos", ignore_errors=True)
        for name in (RECORDS_FILE, RESULTS_FILE, PLAN_FILE):
            (out / name).unlink(missing_ok=True)
    if plan_path.exists() or records_path.exists():
        if not resume:
            raise FileExistsError(f"{out} already holds an evaluation; continue it with --resume or use --overwrite.")
        written = json.loads(plan_path.read_text()) if plan_path.exists() else {}
        changed = sorted(key for key in identity if written.get(key) != identity[key])
        if changed:
            raise ValueError(
                f"{out} holds an evaluation with another {' and '.join(changed).replace('_', ' ')}; "
                "resume with the same, or start over with --overwrite."
            )
    out.mkdir(parents=True, exist_ok=True)
    plan_path.write_text(json.dumps(identity, indent=2) + "\n")
    return read_records(records_path)


@dataclass(kw_only=True)
class _Slot:
    """An episode that runs: what the policy's calls for it have cost so far."""

    job: Job
    session: Session = field(default_factory=Session)
    latency: list[float] = field(default_factory=list)
    batch: list[int] = field(default_factory=list)


@dataclass(kw_only=True)
class _Lane:
    """A worker with its shard: jobs that wait, and slots that run."""

    worker: int
    waiting: deque[Job] = field(default_factory=deque)
    slots: dict[int, _Slot] = field(default_factory=dict)

    @property
    def unfinished(self) -> list[Job]:
        return [slot.job for slot in self.slots.values()] + list(self.waiting)


class _Session:
    """One call of `evaluate`: hands shards to workers, answers their looks, records what they finish."""

    def __init__(
        self,
        policy: PolicyLike,
        setup: Setup,
        jobs: Sequence[Job],
        done: dict[tuple[str, int], EpisodeRecord],
        videos: int,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.policy, self.setup, self.videos, self.progress = policy, setup, videos, progress
        self.records, self.total = done, len(jobs)
        shards = ([job for job in shard if job.key not in done] for shard in make_shards(jobs))
        self.queue = deque(shard for shard in shards if shard)
        self.answered = False
        self.deaths: dict[tuple[str, int], int] = defaultdict(int)
        self.filmed: dict[str, int] = defaultdict(int)
        self.kept: dict[tuple[str, bool], int] = defaultdict(int)
        for record in done.values():
            self.filmed[record.condition] += record.video is not None
            self.kept[record.condition, record.success] += record.video is not None

    def run(self, make_pool: MakePool, workers: int) -> None:
        """Until every job is recorded. All workers are gone when it returns or raises."""
        self._report_progress()
        lanes = [_Lane(worker=index) for index in range(min(workers, len(self.queue)))]
        with closing(make_pool(RolloutWorker, (self.setup,), len(lanes))) as pool:
            for lane in lanes:
                self._proceed(pool, lane, Report())
            while pool.busy:
                finished = pool.next()
                self._proceed(pool, lanes[finished.worker], self._report(lanes[finished.worker], finished))

    def _report(self, lane: _Lane, finished: Finished) -> Report:
        """The worker's report; an empty one when it died, after its jobs are queued again."""
        if finished.error is not None:
            kind, text = type(finished.error).__name__, finished.error
            raise RuntimeError(
                f"A rollout worker failed ({kind}: {text}); what was recorded is kept in {self.setup.out}."
            ) from finished.error
        if finished.died is not None:
            self._queue_again(lane, finished.died)
            return Report()
        return finished.value

    def _proceed(self, pool: WorkerPool, lane: _Lane, report: Report) -> None:
        """Record what is finished, answer what waits, fill the free slots, and send it all as the next round."""
        for slot, record in report.finished.items():
            self._record(lane.slots.pop(slot), record)
        answers = self._infer(lane, report.looks, report.requests)
        if not lane.slots and not lane.waiting and self.queue:
            lane.waiting.extend(self.queue.popleft())
        starts = {}
        for slot in range(LOCKSTEP):
            if slot not in lane.slots and lane.waiting:
                job = lane.waiting.popleft()
                lane.slots[slot] = _Slot(job=job, session=Session(executed=self.setup.execute))
                starts[slot] = Start(job=job, film=self._film(job.condition))
        if answers or starts:
            pool.submit(Round(answers=answers, starts=starts), lane.worker)

    def _infer(
        self, lane: _Lane, looks: dict[int, Observation], requests: dict[int, ChunkRequest]
    ) -> dict[int, Answer]:
        if not looks:
            return {}
        slots = [lane.slots[slot] for slot in looks]
        seeds = [noise_seed(slot.job.scenario, len(slot.latency)) for slot in slots]
        began = time.perf_counter()
        told = [requests.get(slot) for slot in looks]
        answers = self._ask(list(looks.values()), [slot.session for slot in slots], seeds, told)
        seconds = time.perf_counter() - began
        for slot in slots:
            slot.latency.append(seconds)
            slot.batch.append(len(looks))
        return dict(zip(looks, answers, strict=True))

    def _ask(
        self,
        observations: list[Observation],
        sessions: list[Session],
        seeds: list[int],
        requests: list[ChunkRequest | None],
    ) -> list[Answer]:
        """One answer each. What the policy refuses in a batch is asked one by one, so that only the bad ones fail."""
        told = {"requests": requests} if any(requests) else {}
        try:
            chunks = self.policy.infer(observations, sessions=sessions, seeds=seeds, **told)
        except ValueError as error:
            if len(observations) == 1:
                if not self.answered:
                    raise  # nothing has worked yet: the policy or its input is wrong, not this episode
                return [Answer(actions=None, error=f"The policy refused: {error}")]
            singles = zip(observations, sessions, seeds, requests, strict=True)
            return [answer for o, session, seed, r in singles for answer in self._ask([o], [session], [seed], [r])]
        if len(chunks) != len(observations):
            raise RuntimeError(
                f"The policy answered {len(observations)} observations with {len(chunks)} chunks."
            ) from None
        self.answered = True
        return [
            Answer(
                actions=chunk.actions, text=_said(chunk), marks=chunk.extras.get("marks", {}), router=_routing(chunk)
            )
            for chunk in chunks
        ]

    def _film(self, condition: str) -> tuple[bool, bool]:
        """Which outcomes the next episode of a condition should be kept of, as video."""
        if self.filmed[condition] >= FILMED_FACTOR * self.videos:
            return False, False
        film = self.kept[condition, True] < self.videos, self.kept[condition, False] < self.videos
        self.filmed[condition] += any(film)
        return film

    def _record(self, slot: _Slot, record: EpisodeRecord) -> None:
        record = replace(
            record, latency=tuple(slot.latency), batch=tuple(slot.batch), attempts=1 + self.deaths[slot.job.key]
        )
        if record.video and self.kept[record.condition, record.success] >= self.videos:
            for name in (record.video, record.sheet):
                (self.setup.out / str(name)).unlink(missing_ok=True)  # others were kept while this one ran
            record = replace(record, video=None, sheet=None)
        self.kept[record.condition, record.success] += record.video is not None
        append_record(self.setup.out / RECORDS_FILE, record)
        self.records[slot.job.key] = record
        self._report_progress()

    def _queue_again(self, lane: _Lane, died: str) -> None:
        """A worker died: each of its jobs runs once more, alone in its shard; what dies twice is a recorded failure."""
        running = [slot.job for slot in lane.slots.values()]
        scenarios = ", ".join(f"{job.condition} {job.index} ({job.scenario.task})" for job in running)
        logger.warning("A rollout worker died (%s) during %s; starting a fresh one.", died, scenarios)
        waiting = list(lane.waiting)
        slots, lane.slots, lane.waiting = lane.slots, {}, deque()
        for slot in slots.values():
            self.deaths[slot.job.key] += 1
            if self.deaths[slot.job.key] > 1:
                self._record(slot, _lost(slot.job))
            else:
                self.queue.appendleft([slot.job])
        if waiting:
            self.queue.append(waiting)

    def _report_progress(self) -> None:
        if self.progress is not None:
            successes = sum(record.success for record in self.records.values())
            done = len(self.records)
            self.progress(Progress(done=done, total=self.total, successes=successes, failures=done - successes))


def _said(chunk: ActionChunk) -> str:
    """The subtask the policy wrote, or all that it wrote."""
    return chunk.text.get("subtask") or "; ".join(chunk.text.values())


def _routing(chunk: ActionChunk) -> tuple[float, int] | None:
    """(the gripper head's probability, the head that acted), where the policy has two."""
    return (chunk.extras["router"], chunk.extras["head"]) if "router" in chunk.extras else None


def _lost(job: Job) -> EpisodeRecord:
    return EpisodeRecord(
        condition=job.condition,
        index=job.index,
        split=job.scenario.split,
        control=job.control,
        scenario=asdict(job.scenario),
        instruction=job.instruction or "",
        success=False,
        steps=0,
        seconds=None,
        progress=0.0,
        error="The worker process died twice in this episode.",
    )

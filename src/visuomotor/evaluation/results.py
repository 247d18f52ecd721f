"""What an evaluation leaves behind: one record per episode (results.jsonl) and their summary (results.json)."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.codec import decode, encode
from visuomotor.evaluation.statistics import Rate

RECORDS_FILE = "results.jsonl"
RESULTS_FILE = "results.json"


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """One rollout.

    `condition` names the split, or the control; `index` counts within it. `instruction` is what the policy read.
    `seconds`: time to success at the control rate, None without success. `max_steps`: the limit that held.
    `latency`: seconds of each policy call this episode took part in, `batch` how many observations shared each.
    `text`: (step, what the policy said). `router`: (step, the gripper head's probability, the head that acted) at each
    look of a policy with two heads (models/damvla). `stages`: (stage, the most of it that was done at some time, 0-1)
    in order, where the world tells. `stalls`: steps in which the robot waited for a chunk. `jerk`, `seam_jerk`: see
    smoothness.jerks. `interventions`: of the safety filter, by reason; `intervened`: commands that it changed. `error`:
    why the episode was stopped, where it was. `attempts`: 2 where a worker process died under it once. `video`,
    `sheet`: paths relative to the results' folder.
    """

    condition: str
    index: int
    split: str
    control: bool
    scenario: dict[str, Any]
    instruction: str
    success: bool
    steps: int
    seconds: float | None
    progress: float
    max_steps: int = 0
    latency: tuple[float, ...] = ()
    batch: tuple[int, ...] = ()
    render_seconds: float = 0.0
    simulation_seconds: float = 0.0
    text: tuple[tuple[int, str], ...] = ()
    router: tuple[tuple[int, float, int], ...] = ()
    stages: tuple[tuple[str, float], ...] = ()
    stalls: int = 0
    jerk: float | None = None
    seam_jerk: float | None = None
    interventions: dict[str, int] = field(default_factory=dict)
    intervened: int = 0
    error: str | None = None
    attempts: int = 1
    video: str | None = None
    sheet: str | None = None

    @property
    def task(self) -> str:
        """The row this episode counts in: the scenario's kind of task where its world names one, else its task."""
        return task_name(self.scenario["task"], self.scenario["options"])


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Policy calls of a condition: percentiles of one (batched) call in seconds, and the two rates it allows.

    `calls_per_second` counts observations answered per second of inference, `actions_per_second` executed actions.
    """

    calls: int
    mean_batch: float
    p50: float
    p95: float
    p99: float
    calls_per_second: float
    actions_per_second: float


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How the robot was driven in a condition.

    `stall_seconds`: mean time per episode in which it waited for a chunk; `jerk`, `seam_jerk`: means of
    smoothness.jerks; `commands`: sent in all episodes, `intervened`: those of them that the safety filter changed,
    `interventions`: why, by reason.
    """

    stall_seconds: float
    jerk: float | None
    seam_jerk: float | None
    commands: int
    intervened: int
    interventions: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class ConditionResult:
    """One row of the evaluation: a split, or a control. Times in seconds, None where nothing succeeded."""

    name: str
    split: str
    control: bool
    rate: Rate
    by_task: dict[str, Rate]
    seconds_to_success: float | None
    mean_progress: float
    latency: Latency | None
    errors: tuple[str, ...] = ()
    motion: Motion | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """An evaluation: what was run (`run`: checkpoint, versions, plan, ...), its conditions and its kept videos."""

    run: dict[str, Any]
    conditions: tuple[ConditionResult, ...]
    videos: tuple[dict[str, Any], ...] = field(default=())

    def __getitem__(self, name: str) -> ConditionResult:
        for condition in self.conditions:
            if condition.name == name:
                return condition
        raise KeyError(f"No condition {name!r} in these results; there are {[c.name for c in self.conditions]}.")

    def table(self, *, tasks: bool = False) -> tuple[list[str], list[list[str]]]:
        """Column names and rows of text that fit 80 columns, one row a condition; with `tasks` one for each task too.

        Time is the mean to success, call the median of one policy call; stall (the mean time that the robot waited),
        safety (commands that the filter changed) and errors are columns where there are any.
        """
        faulty = any(c.errors for c in self.conditions)
        stalled = any(c.motion and c.motion.stall_seconds for c in self.conditions)
        limited = any(c.motion and c.motion.intervened for c in self.conditions)
        columns = ["condition", "success", "time", "progress", "call"]
        columns += ["stall"] * stalled + ["safety"] * limited + ["errors"] * faulty
        rows = []
        for c in self.conditions:
            time = "-" if c.seconds_to_success is None else f"{c.seconds_to_success:.1f} s"
            call = "-" if c.latency is None else f"{1000 * c.latency.p50:.0f} ms"
            row = [c.name, str(c.rate), time, f"{100 * c.mean_progress:.0f} %", call]
            row += ["-" if c.motion is None else f"{c.motion.stall_seconds:.1f} s"] * stalled
            row += ["-" if c.motion is None else str(c.motion.intervened)] * limited
            rows.append(row + [str(len(c.errors))] * faulty)
            if tasks:
                blank = [""] * (len(columns) - 2)
                rows += [[f"  {task}", str(rate), *blank] for task, rate in sorted(c.by_task.items())]
        return columns, rows

    def save(self, folder: Path) -> Path:
        """Write results.json into `folder`, atomically; returns its path."""
        path = folder / RESULTS_FILE
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(encode(self), indent=2) + "\n")
        partial.replace(path)
        return path

    @classmethod
    def load(cls, folder: Path) -> "Results":
        """Read results.json from an evaluation's folder."""
        path = folder / RESULTS_FILE
        try:
            return decode(cls, json.loads(path.read_text()))
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} is missing: that evaluation has not finished (--resume continues it)."
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} is not an evaluation's result: {error}") from error


def task_name(task: str, options: Mapping[str, Any]) -> str:
    """A world with countless tasks puts their kind ("push left") into `Scenario.options["kind"]`."""
    return str(options.get("kind", task))


def append_record(path: Path, record: EpisodeRecord) -> None:
    """Add one line to results.jsonl, at once, so that a kill loses at most episodes that still run."""
    line = json.dumps(encode(record)) + "\n"
    with path.open("a") as file:
        file.write(line)
        file.flush()


def read_records(path: Path) -> list[EpisodeRecord]:
    """All whole records of results.jsonl; a last line that a kill cut short is removed from the file."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            records.append(decode(EpisodeRecord, json.loads(line)))
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number} is not an episode record ({error}). Remove the line, or start over with "
                "--overwrite."
            ) from error
    return records


def summarise(run: dict[str, Any], records: Iterable[EpisodeRecord]) -> Results:
    """Results from the records of all episodes; conditions in order of the run's "conditions", then as they come."""
    grouped: dict[str, list[EpisodeRecord]] = {name: [] for name in run.get("conditions", ())}
    for record in records:
        grouped.setdefault(record.condition, []).append(record)
    ordered = {name: sorted(found, key=lambda r: r.index) for name, found in grouped.items() if found}
    videos = tuple(
        {
            "condition": r.condition, "task": r.task, "instruction": r.instruction, "success": r.success,
            "steps": r.steps, "video": r.video, "sheet": r.sheet, "error": r.error,
        }
        for found in ordered.values()
        for r in found
        if r.video
    )  # fmt: skip
    hz = run.get("control_hz")
    conditions = tuple(_condition(name, found, hz) for name, found in ordered.items())
    return Results(run=run, conditions=conditions, videos=videos)


def _condition(name: str, records: Sequence[EpisodeRecord], control_hz: float | None) -> ConditionResult:
    tasks: dict[str, list[bool]] = {}
    for record in records:
        tasks.setdefault(record.task, []).append(record.success)
    times = [r.seconds for r in records if r.seconds is not None]
    return ConditionResult(
        name=name,
        split=records[0].split,
        control=records[0].control,
        rate=Rate(sum(r.success for r in records), len(records)),
        by_task={task: Rate(sum(found), len(found)) for task, found in sorted(tasks.items())},
        seconds_to_success=math.fsum(times) / len(times) if times else None,
        mean_progress=math.fsum(r.progress for r in records) / len(records),
        latency=_latency(records),
        errors=tuple(f"episode {r.index} ({r.task}): {r.error}" for r in records if r.error),
        motion=None if control_hz is None else _motion(records, control_hz),
    )


def _motion(records: Sequence[EpisodeRecord], control_hz: float) -> Motion:
    reasons: Counter[str] = Counter()
    for record in records:
        reasons.update(record.interventions)
    jerk, seam_jerk = (
        math.fsum(found) / len(found) if (found := [v for v in values if v is not None]) else None
        for values in ([r.jerk for r in records], [r.seam_jerk for r in records])
    )
    return Motion(
        stall_seconds=sum(r.stalls for r in records) / control_hz / len(records),
        jerk=jerk,
        seam_jerk=seam_jerk,
        commands=sum(r.steps for r in records),
        intervened=sum(r.intervened for r in records),
        interventions=dict(sorted(reasons.items())),
    )


def _latency(records: Sequence[EpisodeRecord]) -> Latency | None:
    latency = np.array([seconds for r in records for seconds in r.latency])
    batch = np.array([size for r in records for size in r.batch])
    if not len(latency):
        return None
    inference = max(float((latency / batch).sum()), 1e-9)
    p50, p95, p99 = (float(p) for p in np.percentile(latency, (50, 95, 99)))
    return Latency(
        calls=len(latency),
        mean_batch=float(batch.mean()),
        p50=p50,
        p95=p95,
        p99=p99,
        calls_per_second=len(latency) / inference,
        actions_per_second=sum(r.steps for r in records) / inference,
    )

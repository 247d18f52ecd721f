"""Which executor stands how much latency: one checkpoint, rolled out on the same starts through each of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visuomotor_client.executors import EXECUTORS, guidance_of

from visuomotor.apps.evaluation import evaluate_checkpoint, policy_for
from visuomotor.apps.steps import Steps, digest, source_digest
from visuomotor.codec import encode
from visuomotor.contract import EvalPlan
from visuomotor.evaluation.provenance import checkpoint_hash, code_version
from visuomotor.evaluation.results import RECORDS_FILE, Motion, Results, read_records
from visuomotor.evaluation.statistics import Rate, compare_paired, holm
from visuomotor.locks import FolderLock
from visuomotor.studies.engine import Watch

__all__ = ["ExecutionPlan", "ExecutorResult", "run_execution_study", "table"]

REFERENCE = "receding_horizon"
RESULTS_FILE = "execution.json"


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """What is compared.

    executors: all are compared with receding_horizon at the same latency, which has to be among them; latencies: in
    milliseconds; execute: actions between two looks, for those that do not look at every step; tasks: of the world;
    num_samples: chunks of which the policy takes the medoid.
    """

    checkpoint: Path
    out: Path
    executors: tuple[str, ...] = tuple(EXECUTORS)
    latencies: tuple[float, ...] = (0.0, 50.0, 100.0, 200.0, 300.0)
    environment: str = "tabletop"
    tasks: tuple[str, ...] = ("lift",)
    episodes: int = 50
    execute: int = 4
    num_samples: int = 1
    max_steps: int | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        if REFERENCE not in self.executors or len(set(self.executors)) < len(self.executors):
            raise ValueError(f"Name {REFERENCE!r}, with which others are compared, and each executor once.")
        if not self.latencies or min(self.latencies) < 0 or self.episodes < 1:
            raise ValueError("A study needs at least one latency of 0 or more milliseconds, and at least one episode.")


@dataclass(frozen=True, kw_only=True)
class ExecutorResult:
    """One executor at one latency. `difference` of success to receding_horizon, paired by start, with its 95 %
    interval and a p-value adjusted for all comparisons of the study (Holm); None for receding_horizon itself."""

    executor: str
    latency_ms: float
    rate: Rate
    motion: Motion
    seconds_to_success: float | None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None


def run_execution_study(plan: ExecutionPlan, watch: Watch, *, break_lock: bool = False) -> list[ExecutorResult]:
    """Roll out what is not yet there, compare, and write execution.json into `plan.out`.

    Raises:
        ValueError: an executor needs guidance that the checkpoint's policy does not have.
        FolderInUse: another process or thread writes into `plan.out`; see `FolderLock`, also for `break_lock`.
    """
    with FolderLock(plan.out, break_lock=break_lock):
        return _run_executors(plan, watch)


def _run_executors(plan: ExecutionPlan, watch: Watch) -> list[ExecutorResult]:
    wanted = _evaluation(plan, REFERENCE, 0.0)
    known = getattr(policy_for(plan.checkpoint, wanted), "guidance", ())
    refused = [name for name in plan.executors if guidance_of(name) not in (None, *known)]
    if refused:
        others = [name for name in plan.executors if name not in refused]
        raise ValueError(
            f"The policy in {plan.checkpoint} cannot be guided, which {', '.join(refused)} need; pass --executors "
            f"{' '.join(others)}."
        )
    for latency in plan.latencies:
        for executor in plan.executors:
            _roll_out(plan, executor, latency, watch)
    results = _compare(plan)
    record = {
        "plan": encode(plan),
        "checkpoint": checkpoint_hash(plan.checkpoint),
        "code": code_version(),
        "results": encode(results),
    }
    (plan.out / RESULTS_FILE).write_text(json.dumps(record, indent=2) + "\n")
    return results


def table(results: Sequence[ExecutorResult]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text."""
    columns = ["latency", "executor", "success", "against waiting", "p", "stall", "jerk", "at seams"]
    rows = []
    for r in results:
        against = ""
        if r.difference is not None and r.low is not None and r.high is not None:
            against = f"{100 * r.difference:+.0f} [{100 * r.low:+.0f}, {100 * r.high:+.0f}]"
        jerk, seam = ("-" if v is None else f"{v:.1f}" for v in (r.motion.jerk, r.motion.seam_jerk))
        p = "" if r.p_value is None else f"{r.p_value:.2g}"
        stall = f"{r.motion.stall_seconds:.1f} s"
        rows.append([f"{r.latency_ms:.0f} ms", r.executor, str(r.rate), against, p, stall, jerk, seam])
    return columns, rows


def _folder(plan: ExecutionPlan, executor: str, latency: float) -> Path:
    return plan.out / f"{executor}-{latency:g}ms"


def _evaluation(plan: ExecutionPlan, executor: str, latency: float) -> EvalPlan:
    return EvalPlan(
        environment=plan.environment,
        episodes=plan.episodes,
        control_episodes=0,
        max_steps=plan.max_steps,
        execute=plan.execute,
        executor=executor,
        latency=latency / 1000,
        policy={"num_samples": plan.num_samples} if plan.num_samples > 1 else {},
        options={"tasks": list(plan.tasks)} if plan.tasks else {},
    )


def _roll_out(plan: ExecutionPlan, executor: str, latency: float, watch: Watch) -> None:
    folder, wanted = _folder(plan, executor, latency), _evaluation(plan, executor, latency)

    def work(resume: bool, overwrite: bool) -> None:
        show = watch(f"{executor} at {latency:g} ms")
        evaluate_checkpoint(
            plan.checkpoint,
            wanted,
            folder / "eval",
            workers=plan.workers,
            videos=0,
            controls=(),
            resume=resume,
            overwrite=overwrite,
            progress=lambda state: show(state.done, state.total, f"{state.successes} succeeded"),
        )

    known = digest(source_digest(), checkpoint_hash(plan.checkpoint), wanted)
    Steps(folder).run("eval", known, folder / "eval" / "results.json", work)


def _compare(plan: ExecutionPlan) -> list[ExecutorResult]:
    found: list[dict[str, Any]] = []
    for latency in plan.latencies:
        reference = _successes(_folder(plan, REFERENCE, latency))
        for executor in plan.executors:
            folder = _folder(plan, executor, latency)
            condition = Results.load(folder / "eval").conditions[0]
            assert condition.motion is not None
            entry: dict[str, Any] = {
                "executor": executor,
                "latency_ms": latency,
                "rate": condition.rate,
                "motion": condition.motion,
                "seconds_to_success": condition.seconds_to_success,
            }
            if executor != REFERENCE:
                paired = compare_paired(_successes(folder), reference)
                bounds = {"low": paired.interval.low, "high": paired.interval.high}
                entry |= {"difference": paired.difference, "p_value": paired.p_value, **bounds}
            found.append(entry)
    compared = [entry for entry in found if "p_value" in entry]
    for entry, adjusted in zip(compared, holm([entry["p_value"] for entry in compared]), strict=True):
        entry["p_value"] = adjusted
    return [ExecutorResult(**entry) for entry in found]


def _successes(folder: Path) -> list[bool]:
    return [r.success for r in sorted(read_records(folder / "eval" / RECORDS_FILE), key=lambda r: r.index)]

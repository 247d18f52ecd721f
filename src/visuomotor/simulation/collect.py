"""Collect demonstrations: worker processes stage one folder an attempt, then a LeRobot data set is made of them.

    report = collect(CollectPlan(environment="tabletop", out=Path("demos"), episodes=200, workers=2))

The data set depends only on the plan: it holds the first `episodes` successes in the order of the scenarios, however
many workers there are and however often the collection was interrupted.
"""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from visuomotor.codec import decode
from visuomotor.contract import Embodiment
from visuomotor.data.lerobot import DatasetWriter
from visuomotor.locks import FolderLock
from visuomotor.runtime.local import LocalPool
from visuomotor.runtime.pool import MakePool
from visuomotor.simulation.attempts import AttemptMaker
from visuomotor.simulation.collect_plan import CollectPlan, CollectProgress, CollectReport, Progress
from visuomotor.simulation.interface import WorldSpec, load_world
from visuomotor.simulation.recording import require_recordable
from visuomotor.simulation.staging import Attempt, Staging, write_json

__all__ = ["CollectPlan", "CollectProgress", "CollectReport", "collect"]

RECORD = "collect.json"


def collect(
    plan: CollectPlan,
    *,
    world: WorldSpec | None = None,
    make_pool: MakePool = LocalPool,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    break_lock: bool = False,
) -> CollectReport:
    """Collect what is planned and write the data set, with its record `collect.json`, at `plan.out`.

    `world` is the one that `plan.environment` names, for a world that has no name in this library and no file;
    `make_pool` makes the workers.
    Raises FileExistsError when something is there already and neither `resume` nor `overwrite` is set, ValueError
    when what is there was made by another plan or the world lacks a demonstrator (for scenes: shuffle, annotator),
    RuntimeError when too few attempts succeed or a scenario kills its workers, OSError on a full disk. Whatever the
    error, finished attempts stay and `resume` continues with them.
    FolderInUse (see `FolderLock`, also for `break_lock`): another process or thread writes at `plan.out`.
    """
    if resume and overwrite:
        raise ValueError("Choose resume (continue what is there) or overwrite (begin anew), not both.")
    require_recordable(load_world(world or plan.environment), scenes=plan.scenes > 0)
    staging = Staging(plan.out.with_name(plan.out.name + ".staging"))
    with (
        FolderLock(plan.out, beside=True, break_lock=break_lock),
        FolderLock(staging.root, beside=True, break_lock=break_lock),
    ):
        if resume and (record := _finished(plan, staging)) is not None:
            return _report(plan.out, record)
        return _collect(plan, world or plan.environment, make_pool, staging, resume, overwrite, progress)


def _collect(
    plan: CollectPlan,
    world: str | WorldSpec,
    make_pool: MakePool,
    staging: Staging,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
) -> CollectReport:
    maker: AttemptMaker | None = None
    try:
        _prepare(plan, staging, resume, overwrite)
        maker = AttemptMaker(plan, world, staging, progress, make_pool)
        attempts = maker.run()
        maker.tell("assembling")
        record = _record(plan, attempts, staging.world())
        _assemble(plan, staging, attempts, record)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(f"The disk of {plan.out.absolute().parent} is full: make room. {_kept(staging)}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(staging)) from None
    return _report(plan.out, record, maker.seconds, maker.crashes)


def _finished(plan: CollectPlan, staging: Staging) -> dict[str, Any] | None:
    """The record of a data set that is complete already; None when there is something left to do."""
    if staging.plan() or not _occupied(plan.out):
        return None
    path = plan.out / RECORD
    if not path.exists():
        raise FileExistsError(f"{plan.out} was not made by collect, so it cannot be resumed. Choose another folder.")
    record = json.loads(path.read_text())
    _require_same_plan(plan, record["plan"], plan.out)
    staging.remove()
    return record


def _prepare(plan: CollectPlan, staging: Staging, resume: bool, overwrite: bool) -> None:
    """Leave a staging folder made for this plan, or refuse."""
    if resume and (planned := staging.plan()):
        _require_same_plan(plan, planned, staging.root)
        return
    if _occupied(plan.out):
        if not overwrite:
            raise FileExistsError(
                f"{plan.out} exists. Choose another folder, complete it with --resume, or replace it with --overwrite."
            )
        if not (plan.out / "meta" / "info.json").exists():
            raise FileExistsError(f"{plan.out} is not a data set, so it is not overwritten. Choose another folder.")
    if staging.attempts() and not overwrite:
        raise FileExistsError(
            f"An interrupted collection lies in {staging.root}: go on with --resume, or begin anew with --overwrite."
        )
    staging.remove()
    staging.create(plan.identity())


def _require_same_plan(plan: CollectPlan, other: dict[str, Any], where: Path) -> None:
    mine = plan.identity()
    differing = [name for name in sorted(mine.keys() | other.keys()) if mine.get(name) != other.get(name)]
    if differing:
        changes = "; ".join(f"{name}: {other.get(name)!r} there, {mine.get(name)!r} now" for name in differing)
        raise ValueError(
            f"{where} was collected by another plan ({changes}). Resume with the same plan, overwrite, "
            f"or choose another folder."
        )


def _assemble(plan: CollectPlan, staging: Staging, attempts: list[Attempt], record: dict[str, Any]) -> None:
    """Write the data set beside the attempts, then give it its name."""
    embodiment = decode(Embodiment, staging.world()["embodiment"], "embodiment")
    made, tried_before = staging.root / "dataset", -1
    shutil.rmtree(made, ignore_errors=True)
    with DatasetWriter(made, embodiment, fps=embodiment.control_hz, storage=plan.storage, codec=plan.codec) as writer:
        for attempt in (attempt for attempt in attempts if attempt.success):
            episode, videos = staging.read(attempt.index)
            info = {**episode.info, "attempts": attempt.index - tried_before}
            tried_before = attempt.index
            writer.add(replace(episode, info=info), videos=videos)
    write_json(made / RECORD, record)
    if plan.out.exists():
        replaced = staging.root / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        plan.out.rename(replaced)
    made.rename(plan.out)
    staging.remove()


def _record(plan: CollectPlan, attempts: list[Attempt], world: dict[str, Any]) -> dict[str, Any]:
    """What `collect.json` says."""
    tasks = {task: {"kept": 0, "failed": 0} for task in sorted({attempt.task for attempt in attempts})}
    for attempt in attempts:
        tasks[attempt.task]["kept" if attempt.success else "failed"] += 1
    return {
        "plan": plan.identity(),
        "plan_hash": plan.hash(),
        "episodes": sum(attempt.success for attempt in attempts),
        "frames": sum(attempt.frames for attempt in attempts),
        "failures": sum(not attempt.success for attempt in attempts),
        "tasks": tasks,
        "render_quality": world["render_quality"],
        "versions": world["versions"],
    }


def _report(out: Path, record: dict[str, Any], seconds: float = 0.0, crashes: int = 0) -> CollectReport:
    return CollectReport(
        out=out,
        episodes=record["episodes"],
        frames=record["frames"],
        failures=record["failures"],
        tasks={task: (counts["kept"], counts["failed"]) for task, counts in record["tasks"].items()},
        seconds=seconds,
        crashes=crashes,
    )


def _kept(staging: Staging) -> str:
    count = len(staging.attempts())
    return f"{count} finished attempts are kept in {staging.root}; go on with the same command and --resume."


def _occupied(path: Path) -> bool:
    return path.exists() and (not path.is_dir() or any(path.iterdir()))

"""Train a run: stages in order, exact resume, checkpoints, validation, metrics.

    last = train(run, Path("runs/mine"))

Every random draw of a step comes from (stage seed, stage name, step), and the loader's k-th batch from (seed, k). So
the state of a run is its weights, optimiser moments, averages and counters, and a resumed run repeats an
uninterrupted one bit for bit (same machine, same number of threads, stages limited by steps and not by minutes).
"""

import logging
import os
import time
from pathlib import Path

import torch

from visuomotor.contract import Run
from visuomotor.locks import FolderLock
from visuomotor.training import checkpoint, metrics
from visuomotor.training.assembly import BadSamples
from visuomotor.training.folder import prepare_folder
from visuomotor.training.interrupts import Interrupted, Interrupts
from visuomotor.training.progress import ProgressCallback
from visuomotor.training.run_state import RunState
from visuomotor.training.stage import StageTraining, check_stage
from visuomotor.training.tracker import Tracker

__all__ = ["Interrupted", "train"]

log = logging.getLogger(__name__)


def train(
    run: Run,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: ProgressCallback | None = None,
    bad_samples: BadSamples = "stop",
    stop_after_seconds: float | None = None,
    threads: int | None = None,
    tracker: str | None = None,
    break_lock: bool = False,
) -> Path:
    """Train `run` into the folder `out`; returns the last checkpoint's folder.

    A run before it (`Run.before`) is trained first, in a folder below, and all options hold for both.

    Args:
        resume: go on from the newest checkpoint in `out` (from the start when there is none).
        stop_after_seconds: save and return after this time; `resume` goes on.
        threads: CPU threads of torch, by default OMP_NUM_THREADS, else all cores.
        tracker: "wandb" or "trackio", which get the metrics, too.
        break_lock: take `out` from a process on another host that has ended; see `FolderLock`.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived; everything is saved.
        Diverged: a loss or gradient is not finite. FolderInUse: another process or thread writes into `out`.
        OSError: `out` cannot be written.
        ValueError: run, data and checkpoint contradict each other, or a bad sample was met.
    """
    out = Path(out)
    _check(run)
    follower = Tracker(tracker) if tracker is not None else None
    torch.set_num_threads(threads or _default_threads())
    with FolderLock(out, break_lock=break_lock):
        prepare_folder(run, out, resume=resume, overwrite=overwrite)
        deadline = time.monotonic() + stop_after_seconds if stop_after_seconds is not None else None
        earlier = None
        if run.before is not None:
            earlier = train(
                run.before,
                out / run.before.name,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
                bad_samples=bad_samples,
                stop_after_seconds=stop_after_seconds,
                threads=threads,
                tracker=tracker,
            )
            if not checkpoint.is_finished(out / run.before.name, len(run.before.stages)):
                return earlier  # time is up
        with Interrupts() as interrupts:
            state = RunState(
                run,
                out,
                interrupts,
                bad_samples=bad_samples,
                progress=progress,
                deadline=deadline,
                tracker=follower,
                earlier=earlier,
            )
            if follower is None:
                return _fit(state)
            follower.start(run, out)
            try:
                return _fit(state)
            finally:
                follower.close()


def _check(run: Run) -> None:
    """Refuse a run that cannot be trained, before anything is built."""
    if not run.stages:
        raise ValueError(f"Run {run.name!r} has no stages, so there is nothing to train.")
    for name, stage in run.stages.items():
        if name != stage.name:
            raise ValueError(f"Run {run.name!r} keeps stage {stage.name!r} under {name!r}; use one name.")
        check_stage(name, stage)
    start = next(iter(run.stages.values())).start
    if run.weights and start is not None:
        raise ValueError(
            f"Run {run.name!r} starts from checkpoint {start} and from public weights {run.weights}; choose one."
        )


def _default_threads() -> int:
    wish = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(wish) if wish.isdigit() and int(wish) else len(os.sched_getaffinity(0))


def _fit(state: RunState) -> Path:
    """Train what is left; returns the last checkpoint."""
    last = checkpoint.last_step(state.out)
    if last is not None:
        state.restore(last)
    checkpoint.prune(state.out, max(s.keep for s in state.stages), state.position.ended.values())
    metrics.truncate(state.out / "metrics.jsonl", state.position.step)
    while state.position.stage < len(state.stages):
        stage = state.stages[state.position.stage]
        inside = state.position.stage_step > 0
        if stage.start is not None and not inside:
            state.load_weights(stage.name, stage.start)
        if not StageTraining(state, stage, restore=last if inside else None).fit():
            _stopped(state)
            break
    return checkpoint.checkpoint_folder(state.out, checkpoint.last_step(state.out) or "")


def _stopped(state: RunState) -> None:
    """After an early stop: raise for a signal, log for the time limit."""
    received, step = state.interrupts.received, state.position.step
    if received is not None:
        raise Interrupted(
            f"{received} after step {step}; everything is saved in {state.out}. "
            f"Go on with the same command and --resume."
        )
    log.info("Time is up after step %d; saved in %s, --resume goes on.", step, state.out)

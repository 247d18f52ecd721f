"""Train a run: stages in order, exact resume, checkpoints, validation, metrics.

    last = train(run, Path("runs/mine"))

Every random draw of a step comes from (stage seed, stage name, step), and the loader's k-th batch from (seed, k). So
the state of a run is its weights, optimiser moments, averages and counters, and a resumed run repeats an
uninterrupted one bit for bit (same machine, same number of threads, stages limited by steps and not by minutes).
"""

import json
import logging
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from visuomotor.contract import Run
from visuomotor.data.processor import Processor
from visuomotor.locks import FolderLock
from visuomotor.models import name_table, read_checkpoint
from visuomotor.models.base import Model
from visuomotor.models.report import TensorReport
from visuomotor.policy import Policy
from visuomotor.training import assembly, checkpoint, metrics
from visuomotor.training.assembly import BadSamples
from visuomotor.training.folder import prepare_folder
from visuomotor.training.interrupts import Interrupted, Interrupts
from visuomotor.training.lora import merged
from visuomotor.training.progress import ProgressCallback
from visuomotor.training.provenance import parent_of, provenance, public_weights
from visuomotor.training.stage import StageTraining, check_stage
from visuomotor.training.step import seed_for
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
            trainer = Trainer(
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
                return trainer.fit()
            follower.start(run, out)
            try:
                return trainer.fit()
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


def _think(run: Run, processor: Processor) -> tuple[str, ...]:
    """Levels that checkpoints write before they act."""
    if run.evaluation is not None:
        return run.evaluation.think or ()
    return processor.layout.always_written(processor.config.levels)


def _default_threads() -> int:
    wish = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(wish) if wish.isdigit() and int(wish) else len(os.sched_getaffinity(0))


@dataclass(kw_only=True)
class Position:
    """Where a run is. `step` and `samples` count over all stages; `ended` maps finished stages to checkpoint names."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    samples: int = 0
    ended: dict[str, str] = field(default_factory=dict)


class Trainer:
    """One call of `train`: builds data, processor and model, or restores them from the last checkpoint."""

    def __init__(
        self,
        run: Run,
        out: Path,
        interrupts: Interrupts,
        *,
        bad_samples: BadSamples = "stop",
        progress: ProgressCallback | None = None,
        deadline: float | None = None,
        tracker: Tracker | None = None,
        earlier: Path | None = None,
    ) -> None:
        self.run, self.out, self.interrupts, self.tracker = run, out, interrupts, tracker
        self.bad_samples: BadSamples = bad_samples
        self.progress, self._deadline = progress, deadline
        self.stages = list(run.stages.values())
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.position, self.parents, self.weights = Position(), {}, {}
        self._before, self._started = 0.0, time.monotonic()
        last = checkpoint.last_step(out)
        self.datasets = assembly.open_datasets(run, out / "cache")
        if last is None:
            self.processor = assembly.build_processor(run, self.datasets, skip_bad=bad_samples == "quarantine")
        else:
            self.processor = assembly.load_processor(checkpoint.checkpoint_folder(out, last))
        torch.manual_seed(seed_for(self.stages[0].seed, "weights"))
        self.model: Model = assembly.build_model(run, self.processor)
        if last is None and run.weights:
            self._load_public(run.weights, earlier)
        self.model.to(self.device)
        robot = assembly.driven_robot(run, self.datasets, self.processor)
        self.policy = Policy(self.model, self.processor, robot, think=_think(run, self.processor))
        self._hashes = {name: dataset.hash() for name, dataset in self.datasets.items()}

    def fit(self) -> Path:
        """Train what is left; returns the last checkpoint."""
        last = checkpoint.last_step(self.out)
        if last is not None:
            self._restore(last)
        checkpoint.prune(self.out, max(s.keep for s in self.stages), self.position.ended.values())
        metrics.truncate(self.out / "metrics.jsonl", self.position.step)
        while self.position.stage < len(self.stages):
            stage = self.stages[self.position.stage]
            inside = self.position.stage_step > 0
            if stage.start is not None and not inside:
                self._load_weights(stage.name, stage.start)
            if not StageTraining(self, stage, restore=last if inside else None).fit():
                self._stopped()
                break
        return checkpoint.checkpoint_folder(self.out, checkpoint.last_step(self.out) or "")

    def stop_wanted(self) -> bool:
        late = self._deadline is not None and time.monotonic() >= self._deadline
        return late or self.interrupts.received is not None

    def record(self, entry: dict[str, Any]) -> None:
        """Add a line to metrics.jsonl, and send it to the tracker."""
        metrics.append(self.out / "metrics.jsonl", entry)
        if self.tracker is not None:
            self.tracker.send(entry)

    def seconds(self) -> float:
        """Wall time of this run, earlier parts included."""
        return self._before + time.monotonic() - self._started

    def save(self, stage: StageTraining) -> None:
        """Write policy folder and state, point `last` at them, delete what is no longer kept."""
        name = checkpoint.step_name(self.position.step)
        if checkpoint.last_step(self.out) == name:
            return
        facts = provenance(
            self.run,
            data=self._hashes,
            stage=stage.name,
            step=self.position.step,
            samples=self.position.samples,
            seconds=self.seconds(),
            parents=self.parents,
            weights=self.weights,
            precision=stage.stage.precision,
        )
        with stage.saved_weights(), merged(self.model):
            checkpoint.write_folder(
                checkpoint.checkpoint_folder(self.out, name), lambda folder: self.policy.write(folder, facts)
            )
        state = {
            "position": asdict(self.position),
            "seconds": self.seconds(),
            "parents": self.parents,
            "weights": self.weights,
            "data": self._hashes,
            **stage.facts(),
        }
        checkpoint.write_folder(
            checkpoint.state_folder(self.out, name),
            lambda folder: checkpoint.save_state(folder, self.model, stage.optimiser, stage.shadow(), state),
        )
        checkpoint.set_last(self.out, name)
        checkpoint.prune(self.out, stage.stage.keep, self.position.ended.values())

    def _restore(self, name: str) -> None:
        folder = checkpoint.state_folder(self.out, name)
        facts = checkpoint.load_facts(folder)
        if not facts["position"]["stage_step"]:  # inside a stage it is the stage that loads, with its adapters
            checkpoint.load_state(folder, self.model, None)
        changed = [s for s, known in facts.get("data", {}).items() if self._hashes.get(s) != known]
        if changed:
            raise ValueError(
                f"Data set {changed[0]!r} is not the one that the run in {self.out} was trained on: its contents have "
                f"changed since {name}. Restore it, or start a new run with --from."
            )
        self.position = Position(**facts["position"])
        self.parents, self._before = facts["parents"], facts["seconds"]
        self.weights = facts.get("weights", {})
        log.info("Going on from %s.", checkpoint.checkpoint_folder(self.out, name))

    def _load_public(self, named: dict[str, str], earlier: Path | None) -> None:
        """Fill the fresh model from public weights and the run before; the report is logged and kept."""
        sources = named
        if earlier is not None:
            sources = {part: str(earlier) if source == "before" else source for part, source in named.items()}
            self.parents["before"] = parent_of(earlier)
        generator = torch.Generator().manual_seed(seed_for(self.stages[0].seed, "public weights"))
        report = self.model.load_backbones(sources, generator=generator)
        expected = report.complete or earlier is not None  # a run before has another model, of which a part moves on
        log.log(logging.INFO if expected else logging.WARNING, "Starting from %s: %s.", sources, report)
        self.weights = public_weights(sources, report, name_table(self.run.model).state(self.model))
        self._keep("public weights", sources, report)

    def _load_weights(self, name: str, start: str) -> None:
        """Fill the model from a checkpoint folder or an earlier stage; the report is logged and kept."""
        folder = Path(start)
        if start.startswith("stage:"):
            earlier = start.removeprefix("stage:")
            if earlier not in self.position.ended:
                raise ValueError(
                    f"Stage {name!r} starts from {start!r}, but the stages before it are {sorted(self.position.ended)}."
                )
            folder = checkpoint.checkpoint_folder(self.out, self.position.ended[earlier])
        report = checkpoint.transplant(self.model, self.model.adopt(read_checkpoint(folder)))
        if not report.loaded:
            raise ValueError(f"Nothing in {folder} fits this model ({report}); is it a checkpoint of another model?")
        log.log(
            logging.INFO if report.complete else logging.WARNING, "Stage %r starts from %s: %s.", name, folder, report
        )
        self.parents[name] = parent_of(folder)
        self._keep(name, str(folder), report)

    def _keep(self, name: str, source: Any, report: TensorReport) -> None:
        """Add to transplant.json what became of every tensor."""
        path = self.out / "transplant.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**known, name: {"from": source, **asdict(report)}}, indent=2) + "\n")

    def _stopped(self) -> None:
        """After an early stop: raise for a signal, log for the time limit."""
        received, step = self.interrupts.received, self.position.step
        if received is not None:
            raise Interrupted(
                f"{received} after step {step}; everything is saved in {self.out}. "
                f"Go on with the same command and --resume."
            )
        log.info("Time is up after step %d; saved in %s, --resume goes on.", step, self.out)

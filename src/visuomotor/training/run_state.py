"""A run while it is trained: what it is made of, where it is, and what is written of it."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visuomotor.contract import Run, Stage
from visuomotor.data.processor import Processor
from visuomotor.models import find_spec, read_checkpoint
from visuomotor.models.base import Model
from visuomotor.models.names import NameTable
from visuomotor.models.report import TensorReport
from visuomotor.policy import Policy
from visuomotor.training import assembly, checkpoint, metrics
from visuomotor.training.assembly import BadSamples
from visuomotor.training.interrupts import Interrupts
from visuomotor.training.lora import merged
from visuomotor.training.progress import ProgressCallback
from visuomotor.training.provenance import parent_of, provenance, public_weights
from visuomotor.training.step import seed_for
from visuomotor.training.tracker import Tracker

__all__ = ["RunState"]

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Position:
    """Where a run is. `step` and `samples` count over all stages; `ended` maps finished stages to checkpoint names."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    samples: int = 0
    ended: dict[str, str] = field(default_factory=dict)


class RunState:
    """Data, processor and model of a run, built anew or as the last checkpoint has them, and how they are saved."""

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

    def save(
        self,
        stage: Stage,
        optimiser: torch.optim.Optimizer,
        facts: dict[str, Any],
        weights: AbstractContextManager[None],
        shadow: Mapping[str, Tensor],
    ) -> None:
        """Write policy folder and state, point `last` at them, delete what is no longer kept.

        Args:
            facts: JSON of what the stage needs to resume, beside tensors.
            weights: context in which the model holds what is evaluated and saved.
            shadow: averaged weights, empty without averaging.
        """
        name = checkpoint.step_name(self.position.step)
        if checkpoint.last_step(self.out) == name:
            return
        record = provenance(
            self.run,
            data=self._hashes,
            stage=stage.name,
            step=self.position.step,
            samples=self.position.samples,
            seconds=self.seconds(),
            parents=self.parents,
            weights=self.weights,
            precision=stage.precision,
        )
        with weights, merged(self.model):
            checkpoint.write_folder(
                checkpoint.checkpoint_folder(self.out, name), lambda folder: self.policy.write(folder, record)
            )
        state = {
            "position": asdict(self.position),
            "seconds": self.seconds(),
            "parents": self.parents,
            "weights": self.weights,
            "data": self._hashes,
            **facts,
        }
        checkpoint.write_folder(
            checkpoint.state_folder(self.out, name),
            lambda folder: checkpoint.save_state(folder, self.model, optimiser, shadow, state),
        )
        checkpoint.set_last(self.out, name)
        checkpoint.prune(self.out, stage.keep, self.position.ended.values())

    def restore(self, name: str) -> None:
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
        names = find_spec(self.run.model).names or NameTable({})
        self.weights = public_weights(sources, report, names.state(self.model))
        self._keep("public weights", sources, report)

    def load_weights(self, name: str, start: str) -> None:
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


def _think(run: Run, processor: Processor) -> tuple[str, ...]:
    """Levels that checkpoints write before they act."""
    if run.evaluation is not None:
        return run.evaluation.think or ()
    return processor.layout.always_written(processor.config.levels)

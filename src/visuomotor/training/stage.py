"""One stage of a run: optimiser, schedule, loader, and the loop over steps."""

import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from visuomotor.contract import Batch, Stage
from visuomotor.training import assembly, checkpoint, metrics
from visuomotor.training.ema import MovingAverage
from visuomotor.training.lora import add_adapters, merge_adapters
from visuomotor.training.optimiser import Schedule, make_optimiser
from visuomotor.training.progress import Progress, Rate
from visuomotor.training.run_state import RunState
from visuomotor.training.sources import SourceLosses
from visuomotor.training.step import (
    PRECISIONS,
    StepResult,
    accumulate_gradients,
    clip_and_check,
    precision_context,
    require_finite,
)
from visuomotor.training.validation import validate

__all__ = ["StageTraining", "check_stage"]


def check_stage(name: str, stage: Stage) -> None:
    """Refuse numbers that cannot be trained with, before anything is built."""
    if stage.lora < 0 or (stage.lora and not stage.lora_parts):
        raise ValueError(
            f"Stage {name!r} has lora {stage.lora} in parts {list(stage.lora_parts)}; give a rank of at least 1 and a "
            f"part, or 0 for no adapters."
        )
    if not 0 <= stage.lora_dropout < 1:
        raise ValueError(f"Stage {name!r} has lora_dropout {stage.lora_dropout}; it must be at least 0 and below 1.")
    if stage.steps < 1 or stage.batch_size < 1 or stage.accumulate < 1:
        raise ValueError(
            f"Stage {name!r} has steps {stage.steps}, batch_size {stage.batch_size} and accumulate {stage.accumulate}; "
            f"each must be at least 1."
        )
    if stage.batch_size % stage.accumulate:
        raise ValueError(
            f"Stage {name!r} computes batch_size {stage.batch_size} in accumulate {stage.accumulate} micro-batches, "
            f"which are not equal; choose a divisor."
        )
    if stage.minutes is not None and stage.minutes <= 0:
        raise ValueError(f"Stage {name!r} has minutes {stage.minutes}; give a time above 0, or None.")
    if stage.precision not in PRECISIONS:
        precision_context(stage.precision, torch.device("cpu"))


class StageTraining:
    """One stage of `run`. `restore`: name of the step that it goes on from after an interruption."""

    def __init__(self, run: RunState, stage: Stage, *, restore: str | None = None) -> None:
        self.run, self.stage, self.name = run, stage, stage.name
        self.model, self.device, self.position = run.model, run.device, run.position
        if stage.lora:
            add_adapters(self.model, stage)
        self.model.checkpoint_activations(stage.checkpoint_activations)
        self.optimiser = make_optimiser(self.model, stage)
        self.parameters: list[Tensor] = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.average = MovingAverage(self.model, stage.ema) if stage.ema else None
        self.schedule = Schedule(stage)
        self.autocast = precision_context(stage.precision, self.device)
        self.generator = torch.Generator(self.device)
        source = assembly.DataSource(
            datasets=run.datasets,
            processor=run.processor,
            bad_samples=run.bad_samples,
            quarantine=run.out / "quarantine.jsonl",
        )
        self.loader = assembly.train_loader(stage, source)
        if restore is not None:
            self._restore(restore)
        self.validation = assembly.validation_batches(stage, source)
        self.meter, self.rate = metrics.Meter(), Rate()
        self.sources = SourceLosses([s.name for s in stage.mixture.sources])

    def fit(self) -> bool:
        """Train to the end of the stage; False when stopped before it. Either way everything is saved."""
        self.model.train()
        began = time.monotonic() - self.schedule.elapsed
        self.meter.reset(self.loader.wait_seconds)
        self.rate.add(self.position.samples, self.loader.wait_seconds)
        try:
            while not self.schedule.done(self.position.stage_step):
                if self.run.stop_wanted():
                    self._save()
                    return False
                result = self._step()
                self.schedule.elapsed = time.monotonic() - began
                self._report(result)
        finally:
            self.loader.close()
        self._end()
        return True

    def _step(self) -> StepResult:
        stage, position = self.stage, self.position
        factor = self.schedule.factor(position.stage_step)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        batch = self._next_batch()
        self.optimiser.zero_grad(set_to_none=True)
        terms = accumulate_gradients(
            self.model,
            batch.to(self.device),
            accumulate=stage.accumulate,
            weights=stage.loss_weights,
            generator=self.generator,
            key=(stage.seed, self.name, position.stage_step),
            autocast=self.autocast,
            sources=self.sources,
        )
        result = clip_and_check(self.parameters, terms, stage.clip)
        require_finite(result, batch, position.step + 1, self.name, [s.name for s in stage.mixture.sources])
        self.optimiser.step()
        if self.average is not None:
            self.average.update()
        position.stage_step += 1
        position.step += 1
        position.samples += batch.size
        self.meter.add(result, batch.size)
        return result

    def _next_batch(self) -> Batch:
        try:
            return next(self.loader)
        except (ValueError, OSError):
            self._save()  # a bad sample costs no training that was done
            raise

    def _report(self, result: StepResult) -> None:
        """Whatever is due after this step: metrics, validation, checkpoint, progress."""
        stage, step = self.stage, self.position.stage_step
        done = self.schedule.done(step)
        if _due(step, stage.log_every) or done:
            self._log()
        if self.validation and (_due(step, stage.validate_every) or done):
            self._validate()
        if _due(step, stage.checkpoint_every) and not done:
            self.save()
        if self.run.progress is not None:
            self.rate.add(self.position.samples, self.loader.wait_seconds)
            self.run.progress(self._progress(result.loss))

    def _log(self) -> None:
        entry = {
            "step": self.position.step,
            "stage": self.name,
            "stage_step": self.position.stage_step,
            **self.meter.entry(self.loader.wait_seconds),
            **metrics.flatten(self.sources.means(), "source_loss/"),
            **{f"lr/{g['part']}{'.muon' if g.get('muon') else ''}": g["lr"] for g in self.optimiser.param_groups},
            "seconds": round(self.run.seconds(), 2),
        }
        self.run.record(entry)
        self.meter.reset(self.loader.wait_seconds)

    def _validate(self) -> None:
        with self.saved_weights():
            found = validate(
                self.model,
                self.validation,
                seed=self.stage.seed,
                device=self.device,
                autocast=self.autocast,
                processor=self.run.processor,
                sources=[s.name for s in self.stage.mixture.sources],
            )
        entry = {"step": self.position.step, "stage": self.name, **metrics.flatten(found, "validation/")}
        self.run.record(entry)
        self.meter.reset(self.loader.wait_seconds)

    def _progress(self, loss: float) -> Progress:
        samples_per_second, data_wait = self.rate.value()
        fraction = self.schedule.fraction(self.position.stage_step)
        stages, index = self.run.stages, self.position.stage
        later = sum(s.steps * s.batch_size for s in stages[index + 1 :]) / max(samples_per_second, 1e-9)
        return Progress(
            step=self.position.step,
            total=self.position.step - self.position.stage_step + sum(s.steps for s in stages[index:]),
            stage=self.name,
            loss=loss,
            samples_per_second=samples_per_second,
            data_wait=data_wait,
            seconds_left=self.schedule.elapsed * (1 - fraction) / max(fraction, 1e-9) + later,
            fraction=(index + fraction) / len(stages),
        )

    def _end(self) -> None:
        """Averaged weights become the weights; the stage's last checkpoint carries its name and is never pruned."""
        if self.average is not None:
            self.average.copy_to_model()
            self.average = None
        merge_adapters(self.model)
        position = self.position
        position.ended = {**position.ended, self.name: checkpoint.step_name(position.step)}
        position.stage, position.stage_step = position.stage + 1, 0
        self.save()

    def _save(self) -> None:
        """Save where the stage stands. One without a step has changed nothing, so it starts again when resumed."""
        if self.position.stage_step == 0:
            merge_adapters(self.model)
        self.save()

    def saved_weights(self) -> AbstractContextManager[None]:
        """Context in which the model holds what is evaluated and saved."""
        return self.average.applied() if self.average is not None else nullcontext()

    def save(self) -> None:
        """Save the run with this stage's optimiser, averages and counters."""
        facts = {
            "loader": self.loader.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average_updates": self.average.updates if self.average is not None else 0,
        }
        shadow = self.average.shadow if self.average is not None else {}
        self.run.save(self.stage, self.optimiser, facts, self.saved_weights(), shadow)

    def _restore(self, name: str) -> None:
        folder = checkpoint.state_folder(self.run.out, name)
        facts, shadow = checkpoint.load_state(folder, self.model, self.optimiser)
        self.loader.load_state_dict(facts["loader"])
        self.schedule.load_state_dict(facts["schedule"])
        if self.average is not None:
            self.average.load(shadow, facts["average_updates"])


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0

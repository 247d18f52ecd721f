"""Loss terms and action error on held-out episodes, with the same batches and noise every time."""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from visuomotor.contract import Batch
from visuomotor.models.base import Model
from visuomotor.training.sources import SourceLosses
from visuomotor.training.step import seed_for

__all__ = ["horizon_steps", "validate"]


def horizon_steps(horizon: int) -> tuple[int, ...]:
    """1, T/2 and T, each once."""
    return tuple(sorted({1, max(1, horizon // 2), horizon}))


@torch.no_grad()
def validate(
    model: Model,
    batches: Sequence[Batch],
    *,
    seed: int,
    device: torch.device,
    autocast: AbstractContextManager[Any],
    processor: Any = None,
    sources: Sequence[str] = (),
) -> dict[str, Any]:
    """Mean loss terms, and the mean absolute error of sampled chunks at steps 1, T/2, T and over all steps.

    `robot_error` is the same over all steps by action component, in the embodiment's unit (the normalisation is
    affine, so an error scales back without the state). Entries without valid actions do not count. `source_loss` has
    the terms by source where `sources` names several.
    """
    started, training = time.perf_counter(), model.training
    model.eval()
    generator = torch.Generator(device)
    sums: dict[str, list[float]] = {}
    by_source = SourceLosses(sources)
    errors: dict[int, list[Tensor]] = {}
    for index, host in enumerate(batches):
        batch = host.to(device)
        generator.manual_seed(seed_for(seed, "validation", index))
        with autocast:
            losses = model.loss(batch, generator=generator)
        by_source.add(losses.terms, batch.source)
        for name, term in losses.terms.items():
            entry = sums.setdefault(name, [0.0, 0.0])
            entry[0] += float(term.sum)
            entry[1] += float(term.count)
        _add_errors(errors, model, batch, generator, autocast)
    model.train(training)
    found: dict[str, Any] = {
        "loss": {name: total / (count or 1.0) for name, (total, count) in sums.items()},
        "samples": sum(b.size for b in batches),
    }
    if named := by_source.means():
        found["source_loss"] = named
    if errors:
        found["action_error"] = _by_horizon(errors)
        if processor is not None:
            found["robot_error"] = _by_component(errors, processor)
    found["seconds"] = round(time.perf_counter() - started, 3)
    return found


def _add_errors(
    errors: dict[int, list[Tensor]],
    model: Model,
    batch: Batch,
    generator: torch.Generator,
    autocast: AbstractContextManager[Any],
) -> None:
    """Add sums of |error| and counts, [2, T, A] per embodiment."""
    if batch.actions is None or batch.action_valid is None or not bool(batch.action_valid.any()):
        return
    actions, valid = batch.actions.float(), batch.action_valid
    noise = torch.randn((actions.shape[0], 1, *actions.shape[1:]), generator=generator, device=actions.device)
    with autocast:
        sampled = model.sample(batch, noise=noise).actions[:, 0].float()
    difference = (sampled - actions).abs() * valid
    for embodiment in batch.embodiment.unique().tolist():
        own = batch.embodiment == embodiment
        both = torch.stack([difference[own].sum(0), valid[own].sum(0)]).double().cpu()
        entry = errors.setdefault(embodiment, [torch.zeros_like(both)])
        entry[0] = entry[0] + both


def _by_horizon(errors: Mapping[int, list[Tensor]]) -> dict[str, float]:
    total = sum((e[0] for e in errors.values()), torch.zeros(()))
    error, count = total[0].sum(-1), total[1].sum(-1)
    found = {str(t): float(error[t - 1] / count[t - 1].clamp_min(1)) for t in horizon_steps(len(error))}
    return {**found, "all": float(error.sum() / count.sum().clamp_min(1))}


def _by_component(errors: Mapping[int, list[Tensor]], processor: Any) -> dict[str, float]:
    found = {}
    for index, (both,) in errors.items():
        embodiment = processor.embodiments[index]
        scale = torch.as_tensor(processor.units[index].action.scale, dtype=torch.float64)
        prefix = f"{embodiment.name}." if len(errors) > 1 else ""
        for name, dims in embodiment.action_slices().items():
            error = (both[0][:, dims].sum(0) * scale[dims]).sum() / both[1][:, dims].sum().clamp_min(1)
            found[f"{prefix}{name}"] = float(error)
    return found

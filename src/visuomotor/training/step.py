"""One optimiser step: forward, backward, the check that everything is finite, clipping, update."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from visuomotor.contract import Batch, Losses, mean_of
from visuomotor.models.base import Model
from visuomotor.spelling import did_you_mean
from visuomotor.training.sources import SourceLosses

__all__ = ["Diverged", "StepResult", "accumulate_gradients", "clip_and_check", "precision_context", "seed_for", "split"]

PRECISIONS = {"float32": None, "house": torch.bfloat16, "bf16": torch.bfloat16}


class Diverged(RuntimeError):
    """A loss or gradient is not finite; the weights were not touched by this step."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """Numbers of one step on the host: weighted total, {term: (sum, count)}, gradient norm before clipping."""

    loss: float
    terms: dict[str, tuple[float, float]]
    grad_norm: float


def seed_for(seed: int, *key: object) -> int:
    """A seed for one purpose: the same arguments give the same value on every machine."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def precision_context(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast for "house", nothing for "float32"; ValueError otherwise."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision is {precision!r}; choose 'float32', or 'house' (float32 master weights, bfloat16 products)."
        )
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()


def split(batch: Batch, pieces: int) -> list[Batch]:
    """The batch in equal pieces along its samples."""
    size = batch.size // pieces
    return [batch.map(lambda tensor, start=i * size: tensor[start : start + size]) for i in range(pieces)]


def accumulate_gradients(
    model: Model,
    batch: Batch,
    *,
    accumulate: int,
    weights: Mapping[str, float],
    generator: torch.Generator,
    key: tuple[int, object, int],
    autocast: AbstractContextManager[Any],
    sources: SourceLosses | None = None,
) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Backward of the sum over terms of weight * sum / count; returns {term: (sum, count, weight)}, detached.

    A mean over the whole batch needs its counts first. With micro-batches they come from a forward pass without
    gradients, which costs about a third more time and makes the result independent of `accumulate`. `sources` gets the
    terms by source.
    """
    pieces = split(batch, accumulate) if accumulate > 1 else [batch]

    def losses(index: int) -> Losses:
        seed = seed_for(*key, index)
        generator.manual_seed(seed)
        torch.manual_seed(seed)  # dropout draws from the global generator
        with autocast:
            return model.loss(pieces[index], generator=generator)

    counts: dict[str, Tensor] | None = None
    if len(pieces) > 1:
        with torch.no_grad():
            counts = _add([{n: t.count for n, t in losses(i).terms.items()} for i in range(len(pieces))])
    found: dict[str, tuple[Tensor, Tensor, float]] = {}
    for index in range(len(pieces)):
        terms = losses(index).terms
        _known(weights, terms)
        if sources is not None:
            sources.add(terms, pieces[index].source)
        total = 0.0
        for name, term in terms.items():
            weight = weights.get(name, term.weight)
            count = (counts[name] if counts else term.count).detach()
            if weight:
                total = total + weight * mean_of(term.sum, count)
            before = found[name][0] if name in found else 0
            found[name] = (before + term.sum.detach(), count, weight)
        if isinstance(total, Tensor) and total.requires_grad:
            total.backward()
    return found


def clip_and_check(
    parameters: Sequence[Tensor], terms: Mapping[str, tuple[Tensor, Tensor, float]], clip: float
) -> StepResult:
    """Clip the gradients to norm `clip` (0: not) and bring the step's numbers to the host in one transfer."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(grads) if grads else torch.zeros(())
    if clip and grads:
        torch.nn.utils.clip_grads_with_norm_([p for p in parameters if p.grad is not None], clip, norm)
    sums = [s.float() for s, _, _ in terms.values()]
    counts = [c.to(torch.float32) for _, c, _ in terms.values()]
    values = torch.stack([norm.float().to(sums[0].device) if sums else norm.float(), *sums, *counts]).tolist()
    n = len(terms)
    numbers = {name: (values[1 + i], values[1 + n + i]) for i, name in enumerate(terms)}
    loss = sum(terms[name][2] * s / (c or 1.0) for name, (s, c) in numbers.items())
    return StepResult(loss=loss, terms=numbers, grad_norm=values[0])


def require_finite(result: StepResult, batch: Batch, step: int, stage: str, sources: Sequence[str]) -> None:
    """Raise Diverged naming step, loss terms, sources of the rows and inputs that are not finite."""
    if math.isfinite(result.grad_norm) and all(math.isfinite(s) for s, _ in result.terms.values()):
        return
    terms = ", ".join(f"{name} {s / (c or 1.0):.4g}" for name, (s, c) in result.terms.items())
    counted = Counter(batch.source.tolist())
    rows = ", ".join(f"{n} from {sources[i] if i < len(sources) else i!r}" for i, n in sorted(counted.items()))
    bad = []
    for name in ("state", "actions"):
        tensor = getattr(batch, name)
        if tensor is not None and not bool(tensor.isfinite().all()):
            where = torch.nonzero(~tensor.isfinite().flatten(1).all(1)).flatten().tolist()
            names = sorted({str(sources[int(batch.source[i])]) for i in where})
            bad.append(f"{name} of {len(where)} rows from {names} is not finite")
    raise Diverged(
        f"Training stopped at step {step} of stage {stage!r}: the gradient norm is {result.grad_norm:.4g} "
        f"(loss terms: {terms}; rows: {rows}{'; ' + '; '.join(bad) if bad else ''}). The weights were not changed by "
        f"this step and earlier checkpoints are intact; "
        + ("repair that data." if bad else "lower the learning rate, or use precision 'float32'.")
    )


def _add(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total[name] + value if name in total else value
    return total


def _known(weights: Mapping[str, float], terms: Mapping[str, Any]) -> None:
    for name in weights:
        if name not in terms:
            hint = did_you_mean(name, terms)
            raise ValueError(f"loss_weights names {name!r}, but the model's loss terms are {sorted(terms)}.{hint}")

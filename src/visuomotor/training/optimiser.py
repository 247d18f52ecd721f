"""Which parameters train, at which learning rate, with which decay, on which schedule."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import nn

from visuomotor.contract import Stage
from visuomotor.models.base import Model
from visuomotor.spelling import did_you_mean
from visuomotor.training.lora import adapter_parameters
from visuomotor.training.muon import Muon

__all__ = ["Schedule", "learning_rates", "make_optimiser", "undecayed"]

BETAS = (0.9, 0.95)
EPSILON = 1e-8
MUON_RATE = 3.0  # of the part's rate for what Muon moves: small models learn to look up with it (LOG.md)
NARROW = 16  # a matrix with a shorter side than this is not orthogonalised
WARMUP_SHARE = 0.2  # of the stage at most, so that a shortened run still reaches its learning rate
TABLES = ("position", "pos_embed", "embedding", "token")


def learning_rates(trains: Mapping[str, float], parts: Mapping[str, list[nn.Parameter]]) -> dict[str, float]:
    """{part: learning rate} of the parts that train; of several matching patterns the longest counts.

    Raises:
        ValueError: a pattern matches no part, or nothing trains.
    """
    for pattern in trains:
        if not any(fnmatchcase(part, pattern) for part in parts):
            hint = did_you_mean(pattern, parts)
            raise ValueError(f"`trains` names {pattern!r}, but the model's parts are {sorted(parts)}.{hint}")
    rates = {}
    for part in parts:
        matching = [pattern for pattern in trains if fnmatchcase(part, pattern)]
        if matching:
            rates[part] = trains[max(matching, key=len)]
    rates = {part: rate for part, rate in rates.items() if rate > 0}
    if not rates:
        raise ValueError(
            f"No part trains: `trains` is {dict(trains)}; name parts of {sorted(parts)} with a rate above 0."
        )
    return rates


def undecayed(model: nn.Module) -> set[int]:
    """ids of the parameters without weight decay: vectors (norms, biases, gains), embeddings, position tables."""
    found = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or any(table in name.rpartition(".")[2] for table in TABLES):
            found.add(id(parameter))
    return found


def make_optimiser(model: Model, stage: Stage) -> torch.optim.AdamW:
    """The stage's optimiser over its parts; sets `requires_grad` on every parameter. Groups carry `part` and `peak`.

    With `optimiser="muon"`, hidden matrices are Muon's; vectors, tables, convolutions and narrow matrices (what reads
    actions, what writes them) stay with AdamW, at a third of Muon's rate. Of parts with adapters only these train.
    """
    parts = model.parts()
    rates = learning_rates(stage.trains, parts)
    adapters = _adapters(model, stage, rates)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    plain, groups, seen, muon = undecayed(model), [], set(), stage.optimiser == "muon"
    for part, rate in rates.items():
        own = [p for p in parts[part] if id(p) not in seen]
        if stage.lora and part in stage.lora_parts:
            own = [p for p in own if id(p) in adapters]
        seen |= {id(p) for p in own}
        for parameter in own:
            parameter.requires_grad_(True)
        hidden = [p for p in own if muon and id(p) not in plain and p.ndim == 2 and min(p.shape) >= NARROW]
        taken = plain | {id(p) for p in hidden}
        for chosen, decay, kind in (
            (hidden, stage.weight_decay, True),
            ([p for p in own if id(p) not in taken], stage.weight_decay, False),
            ([p for p in own if id(p) in plain], 0.0, False),
        ):
            if chosen:
                peak = rate * MUON_RATE if kind else rate
                common = {"params": chosen, "weight_decay": decay, "part": part, "peak": peak, "lr": peak}
                groups.append({**common, "muon": kind})
    kind = Muon if muon else torch.optim.AdamW
    return kind(groups, betas=BETAS, eps=EPSILON, fused=True)


def _adapters(model: Model, stage: Stage, rates: Mapping[str, float]) -> set[int]:
    """ids of the adapters' parameters; ValueError when a part that has them does not train."""
    idle = [part for part in stage.lora_parts if part not in rates] if stage.lora else []
    if idle:
        raise ValueError(
            f"Stage {stage.name!r} has adapters of rank {stage.lora} in {idle[0]!r}, but `trains` gives that part no "
            f"learning rate; name it there, or leave it out of lora_parts."
        )
    return adapter_parameters(model)


@dataclass
class Schedule:
    """Linear warm-up, then a cosine to `final_lr` of the peak, over a stage limited by steps, minutes or both.

    `elapsed` (seconds) and `warm` (fraction of the stage when the warm-up ended) are what resume needs.
    """

    stage: Stage
    elapsed: float = 0.0
    warm: float | None = None

    def fraction(self, step: int) -> float:
        """Share of the stage that is done after `step` steps, 0-1."""
        by_steps = step / max(1, self.stage.steps)
        by_time = self.elapsed / (60 * self.stage.minutes) if self.stage.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def factor(self, step: int) -> float:
        """Learning rate of step number `step` (from 0) as a share of the peak."""
        fraction = self.fraction(step)
        if self.warm is None:
            by_steps = (step + 1) / self.stage.warmup if self.stage.warmup else 1.0
            risen = max(by_steps, fraction / WARMUP_SHARE)
            if risen < 1:
                return risen
            self.warm = fraction
        progress = (fraction - self.warm) / max(1e-9, 1 - self.warm)
        final = self.stage.final_lr
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def done(self, step: int) -> bool:
        return self.fraction(step) >= 1

    def state_dict(self) -> dict[str, float | None]:
        return {"elapsed": self.elapsed, "warm": self.warm}

    def load_state_dict(self, state: Mapping[str, float | None]) -> None:
        self.elapsed, self.warm = state["elapsed"] or 0.0, state["warm"]

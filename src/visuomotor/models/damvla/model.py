"""DAM-VLA as a model: loss, routing, denoising and sampling. Dimensions: R noise draws, N samples; others as contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.contract import Batch, Losses, Sampled, Term
from visuomotor.data.grammar import Line
from visuomotor.models.base import Cost, Model
from visuomotor.models.cogact.action_model import ActionModel
from visuomotor.models.cogact.cost import action_model_cost, vlm_cost
from visuomotor.models.cogact.initialize import initialize
from visuomotor.models.cogact.model import error_term, refuse_text, valid_entries, vlm_parts
from visuomotor.models.cogact.vlm import CogACTVLM, Encoded
from visuomotor.models.damvla.config import DAMVLAConfig
from visuomotor.models.damvla.heads import Router, make_head
from visuomotor.models.damvla.losses import label, step_weights
from visuomotor.models.report import TensorReport
from visuomotor.nn.diffusion import ddim, spaced_times
from visuomotor.nn.random import normal

__all__ = ["DAMVLA", "Routed"]

TERMS = ("move", "mani")


@dataclass(frozen=True, eq=False)
class Routed:
    """What denoising needs of a look.

    conditions   of (arm head, gripper head), or of the single head
    probability  of the gripper head, None without a router
    gripper      whether the gripper head acts
    """

    conditions: tuple[Float[Tensor, "B 1 C"], ...]
    probability: Float[Tensor, "B"] | None = None
    gripper: Bool[Tensor, "B"] | None = None


class DAMVLA(Model):
    """CogACT's parts under their names, and by the switches `gripper_model` and `router`.

    `action_model` is the arm head, or the single one.
    """

    def __init__(self, config: DAMVLAConfig) -> None:
        super().__init__()
        self.config: DAMVLAConfig = config
        self.vlm = CogACTVLM(config.vlm)
        initialize(self.vlm)
        drop = config.visual_dropout == "all"
        heads = [make_head(config.action_model, width, drop_visual=drop) for width in config.visual_widths]
        self.action_model = heads[0]
        self.gripper_model = heads[1] if config.dam else None
        output, hidden = config.router_output, config.router_hidden
        self.router = Router(config.width, output=output, hidden=hidden) if config.dam else None

    @property
    def heads(self) -> tuple[ActionModel, ...]:
        """(arm head, gripper head), or the single head."""
        return (self.action_model,) if self.gripper_model is None else (self.action_model, self.gripper_model)

    # Training ---------------------------------------------------------------------------------------------------

    def loss(
        self,
        batch: Batch,
        *,
        noise: Float[Tensor, "B R T A"] | None = None,
        time: Int64[Tensor, "B R"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Terms "move", "mani" and "router" (cross-entropy of the label); with a single head "diffusion", as CogACT.

        Both heads learn from every sample, weighed step by step, each with draws of its own; `noise` and `time` stand
        for both heads' where they are given. Samples without a valid action add nothing.

        Raises:
            ValueError: the batch lacks weights or labels that the switches need (see ProcessorConfig).
        """
        actions, names = batch.actions, TERMS if self.config.dam else ("diffusion",)
        valid = None if actions is None else valid_entries(batch, actions)
        if actions is None or valid is None or not bool(valid.any()):
            zero = torch.zeros((), device=batch.text_ids.device)
            return Losses(terms={name: Term(sum=zero, count=zero) for name in (*names, *["router"] * self.config.dam)})
        conditions, logit = self._look(batch)
        rows = valid.flatten(1).any(1)
        counted = valid if self.config.mask_padded else rows[:, None, None].expand_as(valid)
        factors = (self.config.move_weight, self.config.mani_weight) if self.config.dam else (1.0,)
        importance = step_weights(self.config, batch, valid)
        terms = {}
        for name, factor, head, z, weight in zip(names, factors, self.heads, conditions, importance, strict=True):
            errors = head.squared_errors(actions, z, noise=noise, time=time, generator=generator)
            terms[name] = self._mean(error_term(errors, counted, weight, factor), counted, weight, errors.shape[1])
        if logit is not None:
            terms["router"] = self._router_term(logit, label(batch), rows)
        return Losses(terms=terms)

    def _mean(self, term: Term, counted: Tensor, weight: Tensor | None, draws: int) -> Term:
        """The term as a mean over entries, which it is, or over their weights."""
        if self.config.normalise == "entries" or weight is None:
            return term
        count = draws * (counted * weight[..., None]).flatten(1).sum(1)
        rows = None if term.rows is None else torch.stack([term.rows[0], count])
        return replace(term, count=count.sum(), rows=rows)

    def _router_term(self, logit: Float[Tensor, "B"], target: Float[Tensor, "B"], rows: Bool[Tensor, "B"]) -> Term:
        entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none") * rows
        counts = rows.to(entropy.dtype)
        by_row = torch.stack([entropy.detach(), counts])
        return Term(sum=entropy.sum(), count=counts.sum(), weight=self.config.router_weight, rows=by_row)

    # Inference --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, batch: Batch) -> Routed:
        """Run the vision-language model once and choose a head for each look.

        With hysteresis, labels "head" int64[B] say which acted before (0 arm, 1 gripper, -1 none).
        """
        conditions, logit = self._look(batch)
        if logit is None:
            return Routed(conditions=conditions)
        probability = logit.sigmoid()
        threshold = torch.full_like(probability, 0.5)
        before = batch.labels.get("head")
        if self.config.hysteresis and before is not None:
            threshold = threshold + self.config.hysteresis * ((before == 0).float() - (before == 1).float())
        return Routed(conditions=conditions, probability=probability, gripper=probability >= threshold)

    def denoise(self, prefix: Routed, x: Float[Tensor, "B N T A"], t: Int64[Tensor, "B N"]) -> Float[Tensor, "B N T A"]:
        """The noise that the chosen heads predict in x at diffusion times t, without guidance."""
        draws = x.shape[1]

        def predict(head: ActionModel, z: Tensor, rows: Tensor | slice) -> Tensor:
            condition = head.z_embedder(z).repeat_interleave(draws, 0)
            found = head.denoise(x[rows].flatten(0, 1), t[rows].flatten(), condition)
            return found.to(x.dtype).unflatten(0, (-1, draws))

        return self._routed(prefix, predict, x.shape)

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        *,
        prefix: Routed | None = None,
        num_samples: int = 1,
        noise: Float[Tensor, "B N T A"] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        generate: int = 0,
        lines: Sequence[Line] = (),
        deadline: float | None = None,
        flow: bool = True,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """Action chunks as CogACT samples them, each by the head that its look is routed to.

        Each head is run on the looks that chose it, so the host waits once for the choice. extras: "router" float[B],
        the gripper head's probability, and "head" int64[B], 0 for the arm and 1 for the gripper, whoever has the larger
        share.

        Raises:
            ValueError: text is asked for (`generate`, `lines`, `flow=False`), or no even spacing has `steps` times.
        """
        refuse_text(generate=generate, lines=lines, flow=flow)
        config = self.config
        if noise is None:
            shape = (batch.size, num_samples, config.horizon, config.action_dim)
            noise = normal(shape, generator, batch.text_ids.device)
        prefix = self.encode(batch) if prefix is None else prefix
        times = spaced_times(config.diffusion_steps, config.denoise_steps if steps is None else steps)
        guidance = config.guidance if guidance is None else guidance
        draws, start = noise.shape[1], noise

        def walk(head: ActionModel, z: Tensor, rows: Tensor | slice) -> Tensor:
            x = start[rows].flatten(0, 1)
            return head.sample(z.repeat_interleave(draws, 0), x, len(times), guidance).unflatten(0, (-1, draws))

        if config.routing == "soft" and prefix.probability is not None:
            actions = self._mixed(prefix, noise, times, guidance)
        else:
            actions = self._routed(prefix, walk, noise.shape)
        extras = {}
        if prefix.probability is not None and prefix.gripper is not None:
            extras = {"router": prefix.probability, "head": prefix.gripper.long()}
        return Sampled(actions=actions, extras=extras)

    def _routed(
        self,
        prefix: Routed,
        run: Callable[[ActionModel, Tensor, Tensor | slice], Tensor],
        shape: torch.Size,
    ) -> Tensor:
        """`run(head, conditions, rows)` of each head on the rows that chose it, or of both, mixed."""
        if prefix.probability is None or prefix.gripper is None:
            return run(self.action_model, prefix.conditions[0], slice(None))
        if self.config.routing == "soft":
            share = prefix.probability[:, None, None, None]
            arm, gripper = (run(h, z, slice(None)) for h, z in zip(self.heads, prefix.conditions, strict=True))
            return arm + share.to(arm.dtype) * (gripper - arm)
        found = None
        for head, z, chosen in zip(self.heads, prefix.conditions, (~prefix.gripper, prefix.gripper), strict=True):
            rows = chosen.nonzero()[:, 0]
            if len(rows):
                part = run(head, z[rows], rows)
                found = part.new_zeros(shape) if found is None else found
                found = found.index_copy(0, rows, part)
        assert found is not None, "every row chose a head"
        return found

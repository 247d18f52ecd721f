"""DAM-VLA as a model: loss, routing, denoising, sampling. Dimensions: R noise draws, N samples; others as contract."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.contract import Batch, Losses, Sampled, Term
from visuomotor.models.base import Model
from visuomotor.models.cogact.action_model import ActionModel
from visuomotor.models.cogact.initialize import initialize
from visuomotor.models.cogact.model import error_term, refuse_text, valid_entries, vlm_parts
from visuomotor.models.cogact.vlm import CogACTVLM, Encoded
from visuomotor.models.damvla.config import DAMVLAConfig
from visuomotor.models.damvla.heads import Router, make_head
from visuomotor.models.damvla.losses import label, step_weights
from visuomotor.models.report import TensorReport
from visuomotor.nn.diffusion import ddim, spaced_times
from visuomotor.nn.terms import nothing
from visuomotor.text.grammar import Line

__all__ = ["DAMVLA", "Routed"]

TERMS = ("move", "mani")
ARM, GRIPPER = "action_model.", "gripper_model."
Predictor = Callable[[Tensor, Tensor], Tensor]


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
        self.router = Router(config.llm.width, output=output, hidden=hidden) if config.dam else None

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
            empty = nothing(1.0, batch.text_ids.device)
            return Losses(terms=dict.fromkeys((*names, *["router"] * self.config.dam), empty))
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
        predict = self._predictor(prefix, x.shape[1], guidance=1.0)
        return predict(x.flatten(0, 1), t.flatten()).unflatten(0, x.shape[:2])

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

        Each head is run on the looks that chose it alone, so the host waits once, for the choice. extras: "router"
        float[B], the gripper head's probability, and "head" int64[B], 0 for the arm head and 1 for the gripper head.

        Raises:
            ValueError: text is asked for (`generate`, `lines`, `flow=False`), or no even spacing has `steps` times.
        """
        refuse_text(generate=generate, lines=lines, flow=flow)
        config = self.config
        if noise is None:
            noise = self.draw_noise(batch, num_samples, generator)
        prefix = self.encode(batch) if prefix is None else prefix
        times = spaced_times(config.action_model.diffusion_steps, config.denoise_steps if steps is None else steps)
        predict = self._predictor(prefix, noise.shape[1], config.guidance if guidance is None else guidance)
        actions = ddim(predict, noise.flatten(0, 1), self.action_model.schedule, times).unflatten(0, noise.shape[:2])
        if prefix.probability is None or prefix.gripper is None:
            return Sampled(actions=actions)
        return Sampled(actions=actions, extras={"router": prefix.probability, "head": prefix.gripper.long()})

    def _predictor(self, prefix: Routed, draws: int, guidance: float) -> Predictor:
        """(x [B * draws, T, A], t [B * draws]) -> the noise in x, by the head that a look chose, or by both mixed."""
        conditions = [z.repeat_interleave(draws, 0) for z in prefix.conditions]
        if prefix.probability is None or prefix.gripper is None:
            return self.action_model.predictor(conditions[0], guidance)
        if self.config.routing == "soft":
            arm, gripper = (h.predictor(z, guidance) for h, z in zip(self.heads, conditions, strict=True))
            share = prefix.probability.repeat_interleave(draws, 0)[:, None, None]
            return lambda x, t: torch.lerp(arm(x, t), gripper(x, t), share.to(x.dtype))
        chosen = prefix.gripper.repeat_interleave(draws, 0)
        rows = [own.nonzero()[:, 0] for own in (~chosen, chosen)]
        for head, z, own in zip(self.heads, conditions, rows, strict=True):
            if len(own) == len(chosen):
                return head.predictor(z, guidance)
        parts = [(h.predictor(z[own], guidance), own) for h, z, own in zip(self.heads, conditions, rows, strict=True)]

        def predict(x: Tensor, t: Tensor) -> Tensor:
            found = torch.zeros_like(x)
            for part, own in parts:
                found = found.index_copy(0, own, part(x[own], t[own]))
            return found

        return predict

    # Shared -----------------------------------------------------------------------------------------------------

    def _look(self, batch: Batch) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """What each head is told, and the router's logit."""
        config = self.config
        early = config.dam and config.dl
        seen = self.vlm.observe(batch, (config.reasoning_layer, -1) if early else (-1,))
        feature = seen.features[-1]
        logit = None if self.router is None else self.router(seen.features[0])
        if not config.vt:
            return (feature,) * len(self.heads), logit
        tokens = self._visual_tokens(seen, batch.views).to(feature.dtype)
        class_token, registers = tokens[:, :, :1], tokens[:, :, 1:]
        if config.register_pooling == "mean":
            registers = registers.mean(2, keepdim=True)
        told = [t.flatten(1)[:, None] for t in (class_token, registers)]
        told = told if config.dam else [torch.cat(told, dim=-1)]
        return tuple(torch.cat([feature, visual], dim=-1) for visual in told), logit

    def _visual_tokens(self, seen: Encoded, views: tuple[bool, ...]) -> Float[Tensor, "B V P D"]:
        """DINOv2's class token and registers of each view, zeros where a view is missing."""
        if len(views) != self.config.num_views:
            raise ValueError(
                f"The visual tokens of this DAM-VLA are those of {self.config.num_views} views, but the batch has room "
                f"for {len(views)}; set num_views to the number of the processor's image_roles."
            )
        tokens = seen.prefix.unflatten(1, (sum(views), -1))
        tokens = tokens if self.config.visual_gradient else tokens.detach()
        if all(views):
            return tokens
        placed = tokens.new_zeros(tokens.shape[0], len(views), *tokens.shape[2:])
        placed[:, [index for index, there in enumerate(views) if there]] = tokens
        return placed

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See CogACT's."""
        from visuomotor.models.cogact import backbones

        return backbones.load_backbones(self.vlm, sources, prefix="vlm.")

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a CogACT, or of a DAM-VLA with one head, whose head both heads start from."""
        if self.gripper_model is None or any(name.startswith(GRIPPER) for name in state):
            return dict(state)
        copies = {GRIPPER + n.removeprefix(ARM): t for n, t in state.items() if n.startswith(ARM)}
        return {**state, **copies}

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision, projector, llm, embed, action_model; with dam also gripper_model and router."""
        found = {**vlm_parts(self.vlm), "action_model": list(self.action_model.parameters())}
        for name, module in (("gripper_model", self.gripper_model), ("router", self.router)):
            if module is not None:
                found[name] = list(module.parameters())
        return found

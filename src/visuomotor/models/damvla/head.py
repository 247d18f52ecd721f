"""DAM-VLA's head: a router sends each look to an arm head or to a gripper head, which are told visual tokens, too.

Dimensions: R noise draws, N samples, V views, P prefix tokens of DINOv2, D its width, C of a condition; others as in
heads.base.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.contract import Sampled, Term
from visuomotor.heads.base import ActionHead, Draws, Targets, action_term
from visuomotor.heads.diffusion_transformer import ActionModel, Predictor, sample_chunks
from visuomotor.models.damvla.config import DAMVLAConfig
from visuomotor.models.damvla.losses import label, weights_by_head
from visuomotor.models.damvla.parts import Router, make_head
from visuomotor.nn.guidance import NOISE_GUIDANCE, Guidance
from visuomotor.nn.terms import nothing

__all__ = ["Routed", "RoutedHead"]


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


@dataclass(frozen=True)
class DrawsByHead:
    """The draws of each head."""

    heads: tuple[Draws, ...]

    def select(self, rows: Tensor) -> "DrawsByHead":
        """The draws of some samples."""
        return DrawsByHead(tuple(draws.select(rows) for draws in self.heads))


class RoutedHead(ActionHead):
    """Terms "move", "mani" and "router" (cross-entropy of the label); with a single head "diffusion", as CogACT.

    Both heads learn from every sample, weighed step by step, each with draws of its own. `arm` is the single head, too.
    """

    chunk_guidance = NOISE_GUIDANCE
    classifier_free = True

    def __init__(self, config: DAMVLAConfig) -> None:
        super().__init__()
        self.config = config
        drop = config.visual_dropout == "all"
        heads = [make_head(config.action_model, width, drop_visual=drop) for width in config.visual_widths]
        self.arm = heads[0]
        self.gripper = heads[1] if config.dam else None
        output, hidden = config.router_output, config.router_hidden
        self.router = Router(config.llm.width, output=output, hidden=hidden) if config.dam else None
        layers = (config.reasoning_layer, -1) if config.dam and config.dl else (-1,)
        features = ("prefix",) if config.vt else ()
        self.terms = ("move", "mani") if config.dam else ("diffusion",)
        self.request = ContextRequest(layers=layers, at="prompt", features=features)

    @property
    def heads(self) -> tuple[ActionModel, ...]:
        """(arm head, gripper head), or the single head."""
        return (self.arm,) if self.gripper is None else (self.arm, self.gripper)

    # Training ---------------------------------------------------------------------------------------------------

    def draw(
        self, targets: Targets, noise: Tensor | None, time: Tensor | None, generator: torch.Generator | None
    ) -> DrawsByHead:
        """Draws of each head; `noise` and `time` stand for both heads'."""
        return DrawsByHead(tuple(h.draw(targets.actions, noise, time, generator=generator) for h in self.heads))

    def losses(self, context: Context, targets: Targets, draws: DrawsByHead) -> dict[str, Term]:
        """
        Raises:
            ValueError: the batch lacks weights or labels that the switches need (see ProcessorConfig).
        """
        config = self.config
        conditions, logit = self.look(context)
        steps = targets.steps if config.mask_padded else torch.ones_like(targets.steps)
        factors = (config.move_weight, config.mani_weight) if config.dam else (1.0,)
        mean_over = "weights" if config.normalise == "weights" else "valid"
        weights = weights_by_head(config, targets)
        terms = {}
        each = zip(self.terms, factors, self.heads, conditions, draws.heads, weights, strict=True)
        for name, factor, head, z, own, weight in each:
            errors = head.errors(targets.actions, z, own)
            terms[name] = action_term(errors, steps, weight, mean_over=mean_over, weight=factor)
        if logit is not None:
            terms["router"] = self._router_term(logit, label(targets))
        return terms

    def _router_term(self, logit: Float[Tensor, "B"], target: Float[Tensor, "B"]) -> Term:
        entropy = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
        counts = torch.ones_like(entropy)
        rows = torch.stack([entropy.detach(), counts])
        return Term(sum=entropy.sum(), count=counts.sum(), weight=self.config.router_weight, rows=rows)

    def nothing(self, device: torch.device) -> dict[str, Term]:
        config = self.config
        factors = {"move": config.move_weight, "mani": config.mani_weight, "router": config.router_weight}
        factors = factors if config.dam else {"diffusion": 1.0}
        return {name: nothing(factor, device) for name, factor in factors.items()}

    # Inference --------------------------------------------------------------------------------------------------

    def route(self, context: Context) -> Routed:
        """Choose a head for each look.

        With hysteresis, labels "head" int64[B] say which acted before (0 arm, 1 gripper, -1 none).
        """
        conditions, logit = self.look(context)
        if logit is None:
            return Routed(conditions=conditions)
        probability = logit.sigmoid()
        threshold = torch.full_like(probability, 0.5)
        before = context.told.get("head")
        if self.config.hysteresis and before is not None:
            threshold = threshold + self.config.hysteresis * ((before == 0).float() - (before == 1).float())
        return Routed(conditions=conditions, probability=probability, gripper=probability >= threshold)

    def denoise(
        self, context: Context, x: Float[Tensor, "B N T A"], t: Int64[Tensor, "B N"]
    ) -> Float[Tensor, "B N T A"]:
        """The noise that the chosen heads predict in x at diffusion times t, without guidance."""
        predict = self._predictor(self.route(context), x.shape[1], guidance=1.0)
        return predict(x.flatten(0, 1), t.flatten()).unflatten(0, x.shape[:2])

    @torch.no_grad()
    def sample(
        self,
        context: Context,
        noise: Float[Tensor, "B N T A"],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        chunk_guidance: Guidance | None = None,
    ) -> Sampled:
        """Chunks as CogACT samples them, each by the head that its look is routed to.

        Each head is run on the looks that chose it alone, so the host waits once, for the choice. extras: "router"
        float[B], the gripper head's probability, and "head" int64[B], 0 for the arm head and 1 for the gripper head.
        """
        config, routed = self.config, self.route(context)
        predict = self._predictor(routed, noise.shape[1], config.guidance if guidance is None else guidance)
        steps = config.denoise_steps if steps is None else steps
        actions = sample_chunks(predict, noise, self.arm.schedule, steps, chunk_guidance)
        if routed.probability is None or routed.gripper is None:
            return Sampled(actions=actions)
        return Sampled(actions=actions, extras={"router": routed.probability, "head": routed.gripper.long()})

    def _predictor(self, routed: Routed, draws: int, guidance: float) -> Predictor:
        """(x [B * draws, T, A], t [B * draws]) -> the noise in x, by the head that a look chose, or by both mixed."""
        conditions = [z.repeat_interleave(draws, 0) for z in routed.conditions]
        if routed.probability is None or routed.gripper is None:
            return self.arm.predictor(conditions[0], guidance)
        if self.config.routing == "soft":
            arm, gripper = (h.predictor(z, guidance) for h, z in zip(self.heads, conditions, strict=True))
            share = routed.probability.repeat_interleave(draws, 0)[:, None, None]
            return lambda x, t: torch.lerp(arm(x, t), gripper(x, t), share.to(x.dtype))
        chosen = routed.gripper.repeat_interleave(draws, 0)
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

    def look(self, context: Context) -> tuple[tuple[Float[Tensor, "B 1 C"], ...], Float[Tensor, "B"] | None]:
        """What each head is told, and the router's logit."""
        config, feature = self.config, context.states[-1]
        logit = None if self.router is None else self.router(context.states[self.request.layers[0]])
        if not config.vt:
            return (feature,) * len(self.heads), logit
        tokens = self._visual_tokens(context, feature)
        class_token, registers = tokens[:, :, :1], tokens[:, :, 1:]
        if config.register_pooling == "mean":
            registers = registers.mean(2, keepdim=True)
        told = [t.flatten(1)[:, None] for t in (class_token, registers)]
        told = told if config.dam else [torch.cat(told, dim=-1)]
        return tuple(torch.cat([feature, visual], dim=-1) for visual in told), logit

    def _visual_tokens(self, context: Context, like: Tensor) -> Float[Tensor, "B V P D"]:
        """DINOv2's class token and registers of each view, zeros where a view is missing."""
        views, config = context.views, self.config
        if len(views) != config.num_views:
            raise ValueError(
                f"The visual tokens of this DAM-VLA are those of {config.num_views} views, but the batch has room for "
                f"{len(views)}; set num_views to the number of the processor's image_roles."
            )
        there = [index for index, present in enumerate(views) if present]
        shape = (context.size, len(views), config.dinov2.prefix_tokens, config.dinov2.width)
        if not there:
            return like.new_zeros(shape)
        tokens = context.features["prefix"].unflatten(1, (len(there), -1)).to(like.dtype)
        tokens = tokens if config.visual_gradient else tokens.detach()
        if all(views):
            return tokens
        placed = tokens.new_zeros(shape)
        placed[:, there] = tokens
        return placed

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """action_model; with dam also gripper_model and router."""
        modules = {"action_model": self.arm, "gripper_model": self.gripper, "router": self.router}
        return {name: list(module.parameters()) for name, module in modules.items() if module is not None}

    def units(self) -> list[nn.Module]:
        return [block for head in self.heads for block in head.blocks]

"""CogACT: loss, features, denoising and sampling. Dimensions: R noise draws, N samples; others as contract."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.contract import Batch, Losses, Sampled, Term
from visuomotor.models.base import Model
from visuomotor.models.cogact.action_model import ActionModel
from visuomotor.models.cogact.config import CogACTConfig
from visuomotor.models.cogact.initialize import initialize
from visuomotor.models.cogact.vlm import CogACTVLM, Encoded
from visuomotor.models.report import TensorReport
from visuomotor.nn.terms import nothing
from visuomotor.text.grammar import Line

__all__ = ["CogACT", "error_term", "refuse_text", "valid_entries", "vlm_parts", "weights_of"]

SCALES = ("trajectory", "chunk")


class CogACT(Model):
    """A vision-language model (`vlm`) whose cognition feature an action model (`action_model`) is told."""

    def __init__(self, config: CogACTConfig) -> None:
        super().__init__()
        self.config: CogACTConfig = config
        self.vlm = CogACTVLM(config.vlm)
        initialize(self.vlm)
        self.action_model = ActionModel(config.action_model)

    def loss(
        self,
        batch: Batch,
        *,
        noise: Float[Tensor, "B R T A"] | None = None,
        time: Int64[Tensor, "B R"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Term "diffusion", the squared error of the predicted noise; texts are not predicted.

        Samples without a valid action add nothing. Which draws are unconditional comes from `generator`, too.
        """
        actions = batch.actions
        valid = None if actions is None else valid_entries(batch, actions)
        if actions is None or valid is None or not bool(valid.any()):
            return Losses(terms={"diffusion": nothing(1.0, batch.text_ids.device)})
        feature = self.vlm.observe(batch).features[0]
        errors = self.action_model.squared_errors(actions, feature, noise=noise, time=time, generator=generator)
        counted = valid if self.config.mask_padded else valid.flatten(1).any(1)[:, None, None].expand_as(valid)
        return Losses(terms={"diffusion": error_term(errors, counted, weights_of(batch))})

    @torch.no_grad()
    def encode(self, batch: Batch) -> Encoded:
        """Run the vision-language model once."""
        return self.vlm.observe(batch)

    def denoise(
        self, prefix: Encoded, x: Float[Tensor, "B N T A"], t: Int64[Tensor, "B N"]
    ) -> Float[Tensor, "B N T A"]:
        """The noise predicted in x at diffusion times t, given the feature and without guidance."""
        condition = self.action_model.z_embedder(prefix.features[0]).repeat_interleave(x.shape[1], 0)
        return self.action_model.denoise(x.flatten(0, 1), t.flatten(), condition).unflatten(0, x.shape[:2])

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        *,
        prefix: Encoded | None = None,
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
        """Action chunks by DDIM steps from noise, with guidance; None takes the configuration's.

        The N samples of an observation share its feature. `deadline` limits text, of which there is none.

        Raises:
            ValueError: text is asked for (`generate`, `lines`, `flow=False`), or no even spacing has `steps` times.
        """
        refuse_text(generate=generate, lines=lines, flow=flow)
        config = self.config
        if noise is None:
            noise = self.draw_noise(batch, num_samples, generator)
        prefix = self.encode(batch) if prefix is None else prefix
        actions = self.action_model.sample(
            prefix.features[0].repeat_interleave(noise.shape[1], 0),
            noise.flatten(0, 1),
            config.denoise_steps if steps is None else steps,
            config.guidance if guidance is None else guidance,
        )
        return Sampled(actions=actions.unflatten(0, noise.shape[:2]))

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See `backbones.load_backbones`."""
        from visuomotor.models.cogact import backbones

        return backbones.load_backbones(self.vlm, sources, prefix="vlm.")

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision, projector, llm, embed, action_model."""
        return {**vlm_parts(self.vlm), "action_model": list(self.action_model.parameters())}


def vlm_parts(vlm: CogACTVLM) -> dict[str, list[nn.Parameter]]:
    """vision (both towers), projector, llm, embed."""
    embed = list(vlm.llm.embed_tokens.parameters())
    return {
        "vision": list(vlm.vision_backbone.parameters()),
        "projector": list(vlm.projector.parameters()),
        "llm": [p for p in vlm.llm.parameters() if p is not embed[0]],
        "embed": embed,
    }


def valid_entries(batch: Batch, actions: Float[Tensor, "B T A"]) -> Bool[Tensor, "B T A"]:
    """The steps of a batch's actions that are data, with all their dimensions.

    Dimensions beyond a robot's own are zero and learnt as such: sampling unfolds noise in them, too, and what nobody
    taught would grow and be another input than in training.
    """
    if batch.action_valid is None:
        return torch.ones_like(actions, dtype=torch.bool)
    return batch.action_valid.any(-1, keepdim=True).expand_as(actions)


def weights_of(batch: Batch) -> Float[Tensor, "B T"] | None:
    """The product of a batch's weights, None for none.

    Without "trajectory" and "chunk", of which DAM-VLA's switches make weights: as long as none does, they mean nothing.
    """
    product = None
    for values in (values for name, values in batch.weights.items() if name not in SCALES):
        product = values if product is None else product * values
    return product


def error_term(
    errors: Float[Tensor, "B R T A"],
    counted: Bool[Tensor, "B T A"],
    importance: Float[Tensor, "B T"] | None = None,
    weight: float = 1.0,
) -> Term:
    """The mean over the entries that count, for all draws; `importance` multiplies steps and leaves the count."""
    factors = counted.to(errors.dtype)
    weighted = errors * (factors if importance is None else factors * importance[..., None])[:, None]
    counts = errors.shape[1] * factors.flatten(1).sum(1)
    rows = torch.stack([weighted.detach().flatten(1).sum(1), counts])
    return Term(sum=weighted.sum(), count=counts.sum(), weight=weight, rows=rows)


def refuse_text(*, generate: int, lines: Sequence[Any], flow: bool) -> None:
    """ValueError where text is asked of a model that has no layer over the vocabulary."""
    if generate or lines or not flow:
        raise ValueError(
            "This model writes no text: it has no output layer over the vocabulary. Let it act at once (think=(), "
            "actions_from='flow'), and ask questions of a DM0."
        )

"""Stage 1 of DexVLA's curriculum: the diffusion expert learns on its own, from all robots, what a sub-step looks like.

A residual network for each camera, modulated after every stage by the frozen embedding of the sub-step's text, makes
the condition that the vision-language model will make from Stage 2 on. Tensors have the names of the published Stage-1
file (`noise_pred_net.` is what moves on). Dimensions as in contract.Batch; N chunks, D width of the condition.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from visuomotor.contract import Batch, Losses, Sampled
from visuomotor.models.base import Model
from visuomotor.models.dexvla.expert_config import SIZES, DexVLAExpertConfig, first_format
from visuomotor.models.dexvla.scaledp import ScaleDP
from visuomotor.models.spec import ModelSpec
from visuomotor.nn.resnet import ResNet, imagenet_pixels

__all__ = ["SIZES", "SPEC", "DexVLAExpert", "DexVLAExpertConfig", "ExpertPrefix", "first_format"]


@dataclass(frozen=True, kw_only=True)
class ExpertPrefix:
    """What all denoising steps share."""

    cond: Float[Tensor, "B 1 D"]
    state: Float[Tensor, "B S"]
    embodiment: Int64[Tensor, "B"]

    def repeated(self, times: int) -> tuple[Tensor, Tensor, Tensor]:
        cond, state, embodiment = (t.repeat_interleave(times, 0) for t in (self.cond, self.state, self.embodiment))
        return cond, state, embodiment


class DexVLAExpert(Model):
    """ScaleDP behind image encoders. A batch may mix robots, each of which has layers of its own on the trunk."""

    def __init__(self, config: DexVLAExpertConfig) -> None:
        super().__init__()
        self.config: DexVLAExpertConfig = config
        encoders = {role: ResNet(config.resnet, config.sentence_dim) for role in config.image_roles}
        self.obs_encoder = nn.ModuleDict(encoders)
        self.obs_projector = nn.Linear(len(encoders) * config.resnet.widths[-1], config.head.cond_dim)
        self.noise_pred_net = ScaleDP(config.head)

    def loss(
        self,
        batch: Batch,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """One term, "diffusion"; `time` int64[B, K] in 0 ... 99.

        Raises:
            ValueError: no actions, no sentence embedding, or a camera that the model has no encoder for.
        """
        if batch.actions is None or batch.action_valid is None:
            raise ValueError("Stage 1 learns from actions alone, but this batch has none; leave out such sources.")
        prefix = self.encode(batch)
        term = self.noise_pred_net.loss(
            batch.actions,
            batch.action_valid,
            prefix.cond,
            prefix.state,
            embodiment=prefix.embodiment,
            noise=noise,
            time=time,
            generator=generator,
        )
        return Losses(terms={"diffusion": term})

    def encode(self, batch: Batch) -> ExpertPrefix:
        """The condition; the features of a camera that is absent are 0."""
        sentence = batch.labels.get("sentence")
        if sentence is None or sentence.shape[1:] != (self.config.sentence_dim,):
            given = "none" if sentence is None else f"one of width {sentence.shape[-1]}"
            raise ValueError(
                f"Stage 1 reads a sentence embedding of width {self.config.sentence_dim}, but the batch has {given}; "
                f"set processor.sentence ('hashed', or a DistilBERT)."
            )
        unknown = sorted(batch.images.keys() - set(self.config.image_roles))
        if unknown:
            raise ValueError(
                f"The batch has images of {unknown[0]!r}, but encoders are for {list(self.config.image_roles)}; give "
                f"the model the processor's image_roles."
            )
        features = []
        for role in self.config.image_roles:
            if role in batch.images:
                features.append(self.obs_encoder[role](imagenet_pixels(batch.images[role]), sentence))
            else:
                features.append(sentence.new_zeros(batch.size, self.config.resnet.widths[-1]))
        cond = self.obs_projector(torch.cat(features, dim=1))
        return ExpertPrefix(cond=cond[:, None], state=batch.state, embodiment=batch.embodiment)

    def denoise(self, prefix: ExpertPrefix, x: Tensor, t: Tensor) -> Tensor:
        """The noise in x [B, N, T, A] at diffusion times t int64[B, N]."""
        cond, state, embodiment = prefix.repeated(x.shape[1])
        return self.noise_pred_net(x.flatten(0, 1), t.flatten(), cond, state, embodiment).view_as(x)

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        *,
        prefix: ExpertPrefix | None = None,
        num_samples: int = 1,
        noise: Float[Tensor, "B N T A"] | None = None,
        steps: int | None = None,
        lines: tuple[Any, ...] = (),
        deadline: float | None = None,
        flow: bool = True,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """Chunks by DDIM. `deadline` limits the writing of text, of which there is none.

        Raises:
            ValueError: text is asked for (`lines`, or `flow` off).
        """
        if lines or not flow:
            raise ValueError("Stage 1 has no language model, so it writes no text: set think=(), actions_from='flow'.")
        prefix = prefix or self.encode(batch)
        if noise is None:
            noise = self.draw_noise(batch, num_samples, generator)
        cond, state, embodiment = prefix.repeated(noise.shape[1])
        actions = self.noise_pred_net.sample(cond, state, noise.flatten(0, 1), steps, embodiment=embodiment)
        return Sampled(actions=actions.view_as(noise))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision (encoders with their FiLM), projector, and head."""
        modules = {"vision": self.obs_encoder, "projector": self.obs_projector, "head": self.noise_pred_net}
        return {name: list(module.parameters()) for name, module in modules.items()}


SPEC = ModelSpec(
    name="dexvla-expert",
    config=DexVLAExpertConfig,
    presets=SIZES,
    build=DexVLAExpert,
    acting=("head",),
    first_format=first_format,
    recipe="dexvla-expert",
)

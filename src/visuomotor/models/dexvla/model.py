"""DexVLA: Qwen2-VL reasons, a diffusion head that is told of it acts. Dimensions as in contract; P slots, W width."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.contract import Batch, Losses, Sampled, Term
from visuomotor.models.base import Model
from visuomotor.models.dexvla.config import ScaleDPConfig
from visuomotor.models.dexvla.fusion import ActionProjector, FiLM, mean_states
from visuomotor.models.dexvla.layout import Layout, arrange
from visuomotor.models.dexvla.scaledp import ScaleDP
from visuomotor.models.dexvla.unet import UNet
from visuomotor.models.dexvla.vla_config import DexVLAConfig
from visuomotor.models.dexvla.vlm import image_tokens, language_model, read, vision_tower
from visuomotor.models.dexvla.writing import Prefix, write
from visuomotor.models.report import TensorReport
from visuomotor.nn.terms import by_row, nothing
from visuomotor.text.grammar import Line

__all__ = ["DexVLA"]


class DexVLA(Model):
    """Parameter names are those of the published checkpoints."""

    def __init__(self, config: DexVLAConfig) -> None:
        super().__init__()
        self.config: DexVLAConfig = config
        self.visual, self.model = vision_tower(config), language_model(config)
        options: dict[str, Any] = {"layernorm": config.projector_layernorm, "deviation": config.initializer_range}
        self.input_action_proj = ActionProjector(config.llm.width, **options)
        self.reasoning_action_proj = ActionProjector(config.llm.width, **options)
        self.reasoning_film = FiLM(config.llm.width)
        self.policy_head = ScaleDP(config.head) if isinstance(config.head, ScaleDPConfig) else UNet(config.head)

    # Training ---------------------------------------------------------------------------------------------------

    def loss(
        self,
        batch: Batch,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Terms "diffusion" (squared error of the predicted noise) and "text" (cross-entropy per supervised token).

        `time` is int64. Samples without supervised text or without a valid action add nothing to the respective term.
        """
        layout = self._layout(batch)
        states = read(self.model, self._embed(batch, layout), layout.positions, layout.valid)
        text = self._text_term(states, layout)
        if batch.actions is None:
            return Losses(terms={"diffusion": nothing(1.0, states.device), "text": text})
        valid = torch.ones_like(batch.actions, dtype=torch.bool) if batch.action_valid is None else batch.action_valid
        diffusion = self.policy_head.loss(
            batch.actions,
            valid,
            self.condition(states, layout.valid, layout.answer),
            batch.state,
            embodiment=batch.embodiment,
            noise=noise,
            time=time,
            generator=generator,
        )
        return Losses(terms={"diffusion": diffusion, "text": text})

    def _text_term(self, states: Tensor, layout: Layout) -> Term:
        """Next-token cross-entropy in float32; only supervised tokens are read."""
        rows, slots = layout.target.nonzero(as_tuple=True)
        if not len(rows):
            return nothing(self.config.text_weight, states.device)
        logits = F.linear(states[rows, slots - 1], self.model.embed_tokens.weight).float()
        entropy = F.cross_entropy(logits, layout.ids[rows, slots], reduction="none")
        tally = by_row(entropy, torch.ones_like(entropy), rows, len(states))
        return Term(sum=entropy.sum(), count=tally[1].sum(), weight=self.config.text_weight, rows=tally)

    # Inference --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, batch: Batch, *, text: bool = False) -> Prefix:
        """Run the VLM once over prompt and answer, as far as the batch has one; `text` prepares for writing."""
        from transformers import DynamicCache

        layout = self._layout(batch)
        cache = DynamicCache() if text else None
        states = read(self.model, self._embed(batch, layout), layout.positions, layout.valid, cache)
        return Prefix(
            states=states, valid=layout.valid, answer=layout.answer, after=layout.after, cache=cache,
            state=batch.state, embodiment=batch.embodiment,
        )  # fmt: skip

    def condition(self, states: Tensor, valid: Tensor, answer: Tensor) -> Float[Tensor, "B 1 W"]:
        """What the head is told of the VLM's last states [B, P, W]; masks bool[B, P], see `fusion`."""
        prompt, said = mean_states(states, valid, answer)
        told = self.reasoning_film(self.input_action_proj(prompt), self.reasoning_action_proj(said))
        return (told + prompt)[:, None]

    def denoise(self, prefix: Prefix, x: Float[Tensor, "B N T A"], t: Tensor) -> Float[Tensor, "B N T A"]:
        """The noise in x at times t int64[B, N]; the N samples of a row share its condition."""
        cond, state, embodiment = self._told(prefix, x.shape[1])
        return self.policy_head(x.flatten(0, 1), t.flatten(), cond, state, embodiment).unflatten(0, (-1, x.shape[1]))

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        *,
        prefix: Prefix | None = None,
        num_samples: int = 1,
        noise: Float[Tensor, "B N T A"] | None = None,
        steps: int | None = None,
        generate: int = 0,
        lines: Sequence[Line] = (),
        deadline: float | None = None,
        flow: bool = True,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """Action chunks by DDIM from noise, behind what was reasoned before them.

        generate: > 0 first writes an answer of up to that many tokens (published: 256), greedily; lines: or one line,
        whose length is the limit, until `deadline`. Without either, the chunk follows from the prompt and from what
        answer the batch holds already. flow: False leaves actions at noise.

        Raises:
            ValueError: more than one line.
        """
        if len(lines) > 1:
            raise ValueError(f"DexVLA writes one answer before it acts, not {len(lines)} lines.")
        if noise is None:
            noise = self.draw_noise(batch, num_samples, generator)
        limit = lines[0].length if lines else generate
        prefix = self.encode(batch, text=limit > 0) if prefix is None else prefix
        ids = finished = None
        if limit:
            known = {"end_id": self.config.end_id, "pad_id": self.config.pad_id}
            ids, done = write(self.model, prefix, limit, deadline=deadline, **known)
            finished = done[:, None]
        actions = self._actions(prefix, noise, steps) if flow else noise
        return Sampled(actions=actions, text_ids=ids, lines=() if ids is None else (ids,), finished=finished)

    def _actions(self, prefix: Prefix, noise: Tensor, steps: int | None) -> Tensor:
        cond, state, embodiment = self._told(prefix, noise.shape[1])
        sampled = self.policy_head.sample(cond, state, noise.flatten(0, 1), steps, embodiment=embodiment)
        return sampled.unflatten(0, noise.shape[:2])

    def _told(self, prefix: Prefix, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Condition, state and embodiment of each sample."""
        if prefix.cond is None:
            with torch.no_grad():  # it outlives this call, and a graph would not
                prefix.cond = self.condition(prefix.states, prefix.valid, prefix.answer)
        told = (prefix.cond, prefix.state, prefix.embodiment)
        cond, state, embodiment = (part.repeat_interleave(samples, dim=0) for part in told)
        return cond, state, embodiment

    # Shared -----------------------------------------------------------------------------------------------------

    def _layout(self, batch: Batch) -> Layout:
        return arrange(batch, self.config.image_id, self.config.image_grid)

    def _embed(self, batch: Batch, layout: Layout) -> Float[Tensor, "B P W"]:
        x = self.model.embed_tokens(layout.ids)
        if not batch.images:
            return x
        tokens = image_tokens(self.visual, list(batch.images.values()), self.config)
        return x.masked_scatter(layout.image[..., None], tokens.to(x.dtype))

    def checkpoint_activations(self, on: bool) -> None:
        """See `Model.checkpoint_activations`; layers of transformers have a switch of their own."""
        super().checkpoint_activations(on)
        for tower in (self.visual, self.model):
            if on:
                tower.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            else:
                tower.activation_checkpointing_disable()

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See `backbones.load_backbones`."""
        from visuomotor.models.dexvla import backbones

        return backbones.load_backbones(self, sources)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision (without its merger), merger, llm, embed, projectors (of prompt and answer), film, head."""
        merger = list(self.visual.merger.parameters())
        own = {id(parameter) for parameter in merger}
        embed = list(self.model.embed_tokens.parameters())
        projectors = (self.input_action_proj, self.reasoning_action_proj)
        return {
            "vision": [p for p in self.visual.parameters() if id(p) not in own],
            "merger": merger,
            "llm": [p for p in self.model.parameters() if p is not embed[0]],
            "embed": embed,
            "projectors": [p for projector in projectors for p in projector.parameters()],
            "film": list(self.reasoning_film.parameters()),
            "head": list(self.policy_head.parameters()),
        }

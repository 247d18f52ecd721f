"""DexVLA's head: the language model's states through two projectors, and FiLM between them, into a diffusion network.

With p the mean state of the prompt (images, instruction, template) and r that of the answer (reasoning):
cond = A(p) * (1 + scale(R(r))) + shift(R(r)) + p.  Dimensions: B samples, P slots, W width.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.heads.diffusion import ConditionedDiffusion
from visuomotor.heads.diffusion_config import ScaleDPConfig
from visuomotor.heads.scaledp import ScaleDP
from visuomotor.heads.unet import UNet
from visuomotor.models.dexvla.config import DexVLAConfig
from visuomotor.nn.film import FiLM

__all__ = ["ActionProjector", "ReasoningHead", "mean_states"]


class ActionProjector(nn.Module):
    """Two linear layers around an exact GELU; with `layernorm` each is followed by a LayerNorm (the paper's text)."""

    def __init__(self, width: int, *, layernorm: bool = False, deviation: float = 0.02) -> None:
        super().__init__()
        self.mlps = nn.ModuleList([nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) if layernorm else nn.Identity() for _ in range(2)])
        for index in (0, 2):
            linear = self.mlps[index]
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=deviation)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        hidden = self.mlps[1](self.norms[0](self.mlps[0](x)))
        return self.norms[1](self.mlps[2](hidden))


class ReasoningHead(ConditionedDiffusion):
    """A diffusion network behind the language model's states of prompt and answer."""

    request = ContextRequest(layers=(-1,))

    def __init__(self, config: DexVLAConfig) -> None:
        width = config.llm.width
        options: dict[str, Any] = {"layernorm": config.projector_layernorm, "deviation": config.initializer_range}
        projectors = [ActionProjector(width, **options) for _ in range(2)]
        film = FiLM(width, width)
        # Last: the order of construction is that of the random draws of fresh weights.
        super().__init__(ScaleDP(config.head) if isinstance(config.head, ScaleDPConfig) else UNet(config.head))
        self.prompt_projector, self.answer_projector = projectors
        self.film = film

    def condition(self, context: Context) -> Float[Tensor, "B 1 W"]:
        """The condition of each row; without an answer, the state of the prompt's last slot stands for one."""
        if context.answer is None:
            raise ValueError("This head pools prompt and answer, which the backbone does not tell apart.")
        prompt, answer = mean_states(context.states[-1], context.valid, context.answer)
        modulated = self.film(self.prompt_projector(prompt), self.answer_projector(answer))
        return (modulated + prompt)[:, None]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """projectors (of prompt and answer), film, head."""
        projectors = [*self.prompt_projector.parameters(), *self.answer_projector.parameters()]
        return {"projectors": projectors, "film": list(self.film.parameters()), **super().parts()}


def mean_states(
    states: Float[Tensor, "B P W"], valid: Bool[Tensor, "B P"], answer: Bool[Tensor, "B P"]
) -> tuple[Float[Tensor, "B W"], Float[Tensor, "B W"]]:
    """Mean states of the prompt and of the answer; without an answer, the state of the prompt's last slot.

    The prompt is what is valid and no answer. Padding may hold anything, also NaN.
    """
    prompt = valid & ~answer
    slot = torch.arange(states.shape[1], device=states.device).expand(len(states), -1)
    last = slot.where(prompt, -1).argmax(1, keepdim=True)
    said = answer.where(answer.any(1, keepdim=True), slot == last)
    return _mean(states, prompt), _mean(states, said)


def _mean(states: Tensor, chosen: Tensor) -> Tensor:
    total = states.masked_fill(~chosen[..., None], 0.0).float().sum(1)
    return (total / chosen.sum(1, keepdim=True).clamp_min(1)).to(states.dtype)

"""What the action head is told of the language model's states: two projectors, and FiLM between them.

With p the mean state of the prompt (images, instruction, template) and r that of the answer (reasoning):
cond = A(p) * (1 + scale(R(r))) + shift(R(r)) + p.  Dimensions: B samples, P slots, W width.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["ActionProjector", "FiLM", "mean_states"]


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


class FiLM(nn.Module):
    """x * (1 + scale(r)) + shift(r); weights and biases start at zero, so that r says nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale_fc, self.shift_fc = nn.Linear(width, width), nn.Linear(width, width)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "B W"], r: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        return x * (1 + self.scale_fc(r)) + self.shift_fc(r)


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

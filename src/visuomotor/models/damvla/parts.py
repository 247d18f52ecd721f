"""Heads that are told visual tokens beside the cognition feature, and the router that chooses between them.

Dimensions: B batch, C width of the cognition feature, D of the visual tokens, W of the head.
"""

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.heads.diffusion_transformer import ActionModel, ActionModelConfig, ConditionEmbedder

__all__ = ["FusedEmbedder", "Router", "make_head"]


class FusedEmbedder(ConditionEmbedder):
    """Embeds [feature | visual tokens] as Linear(feature) + Linear(LayerNorm(tokens)).

    The second linear begins at zero, so a fresh head is the one without visual tokens. Unconditional rows have learned
    vectors in place of both, or of the feature alone (`drop_visual` off).
    """

    def __init__(self, inputs: int, visual: int, width: int, *, drop_visual: bool) -> None:
        super().__init__(inputs, width)
        self.widths = (inputs, visual)
        self.visual_norm = nn.LayerNorm(visual)
        self.visual_linear = nn.Linear(visual, width)
        self.visual_uncondition = nn.Parameter(0.02 * torch.randn(1, visual)) if drop_visual else None
        nn.init.zeros_(self.visual_linear.weight)
        nn.init.zeros_(self.visual_linear.bias)

    def forward(self, z: Float[Tensor, "B 1 C+D"], drop: Bool[Tensor, "B"] | None = None) -> Float[Tensor, "B 1 W"]:
        feature, tokens = z.split(self.widths, dim=-1)
        seen = self.visual_norm(tokens.to(self.visual_norm.weight.dtype))
        if drop is not None and self.visual_uncondition is not None:
            seen = torch.where(drop[:, None, None], self.visual_uncondition, seen)
        return super().forward(feature, drop) + self.visual_linear(seen)


def make_head(config: ActionModelConfig, visual: int, *, drop_visual: bool = True) -> ActionModel:
    """CogACT's action model; with `visual` > 0 its condition is [feature | visual tokens], so wide.

    Its parameters keep their names, so that those of a CogACT fit.
    """
    head = ActionModel(config)
    if visual:
        fused = FusedEmbedder(config.token_size, visual, config.width, drop_visual=drop_visual)
        fused.linear, fused.uncondition = head.z_embedder.linear, head.z_embedder.uncondition
        head.z_embedder = fused
        head.config = replace(config, token_size=config.token_size + visual)
    return head


class Router(nn.Module):
    """A latent -> the logit of manipulating, float32, whose sigmoid is the gripper head's probability.

    A softmax over two numbers is the sigmoid of their difference.
    """

    def __init__(self, width: int, *, output: Literal["sigmoid", "softmax"] = "sigmoid", hidden: int = 0) -> None:
        super().__init__()
        outputs = 2 if output == "softmax" else 1
        self.norm = nn.LayerNorm(width)  # early layers have the scale of a raw residual stream
        last = nn.Linear(hidden or width, outputs)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), last) if hidden else last

    def forward(self, latent: Float[Tensor, "B 1 C"]) -> Float[Tensor, "B"]:
        with torch.autocast("cpu" if latent.is_meta else latent.device.type, enabled=False):  # see models/meta.py
            found = self.layers(self.norm(latent[:, 0].to(self.norm.weight.dtype))).float()
        return found[:, -1] - found[:, 0] if found.shape[1] == 2 else found[:, 0]

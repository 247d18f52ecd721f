"""Fresh weights for training from nothing: unit variance, residual branches scaled down with depth as in GPT-2."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from visuomotor.nn.attention import SelfAttention
from visuomotor.nn.decoder import Decoder, GatedMLP
from visuomotor.nn.norms import AdaptiveRMSNorm
from visuomotor.nn.vision import PerceptionEncoder, VisionBlock, sinusoidal_grid
from visuomotor.nn.vit import ViT, ViTBlock

__all__ = ["initialize"]

POSITION_SCALE = 0.7  # as strong as the patches: a tower trained from nothing learns where things are much sooner


@torch.no_grad()
def initialize(stacks: Iterable[tuple[nn.Module, int]]) -> None:
    """Initialise modules, each with the number of layers of the residual stream that it writes into.

    Matrices are normal with a variance of 1 / inputs, biases zero, embeddings of norm 1, positions a sinusoidal grid.
    """
    stacks = list(stacks)
    for module, layers in stacks:
        _scale(module, layers)
    inside = [part for module, _ in stacks for part in module.modules()]
    for part in inside:
        if isinstance(part, Decoder) and part.config.vocab_size is not None:
            width = part.config.width
            nn.init.normal_(part.embed_tokens.weight, std=1 / width if part.config.scale_embeddings else width**-0.5)
    for part in inside:
        if isinstance(part, PerceptionEncoder):
            nn.init.normal_(part.class_embedding, std=part.config.width**-0.5)
            nn.init.zeros_(part.positional_embedding)
            part.positional_embedding[1:] = POSITION_SCALE * sinusoidal_grid(part.config.grid, part.config.width)
        elif isinstance(part, ViT) and part.config.width % 4 == 0:  # columns and rows, each of sines and cosines
            part.pos_embed[0] = POSITION_SCALE * sinusoidal_grid(part.config.grid, part.config.width)


def _scale(module: nn.Module, layers: int) -> None:
    if isinstance(module, AdaptiveRMSNorm):
        return  # a fresh one normalises alone
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for child in module.children():
        _scale(child, layers)
    residual: list[nn.Linear] = []
    if isinstance(module, SelfAttention):
        residual = [module.o_proj]
    elif isinstance(module, GatedMLP):
        residual = [module.down_proj]
    elif isinstance(module, ViTBlock):
        residual = [module.attn.proj, module.mlp.fc2]
    elif isinstance(module, VisionBlock):
        nn.init.normal_(module.attn.in_proj_weight, std=module.attn.in_proj_weight.shape[1] ** -0.5)
        residual = [module.attn.out_proj, module.mlp.c_proj]
    for linear in residual:
        linear.weight.mul_(1 / math.sqrt(2 * layers))

"""Fresh weights of the vision-language model, for training from nothing; public weights take their place."""

import torch
from torch import nn

from visuomotor.models.cogact.vlm import CogACTVLM
from visuomotor.nn.decoder import DecoderLayer
from visuomotor.nn.vision import sinusoidal_grid
from visuomotor.nn.vit import ViT, ViTBlock

__all__ = ["initialize"]

POSITION_SCALE = 0.7  # as strong as the patches: a tower trained from nothing learns where things are much sooner


@torch.no_grad()
def initialize(vlm: CogACTVLM) -> None:
    """Unit-variance weights; what writes into a residual stream is scaled down with depth, as in GPT-2."""
    for module in vlm.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(vlm.llm.embed_tokens.weight, std=vlm.config.llm.width**-0.5)
    for layer in vlm.llm.layers:
        assert isinstance(layer, DecoderLayer)
        _quieten(len(vlm.llm.layers), layer.self_attn.o_proj, layer.mlp.down_proj)
    for tower in vlm.vision_backbone.children():
        assert isinstance(tower, ViT)
        for block in tower.blocks:
            assert isinstance(block, ViTBlock)
            _quieten(len(tower.blocks), block.attn.proj, block.mlp.fc2)
        if tower.config.width % 4 == 0:  # halves for columns and rows, each of sines and cosines
            tower.pos_embed[0] = POSITION_SCALE * sinusoidal_grid(tower.config.grid, tower.config.width)


def _quieten(layers: int, *linears: nn.Linear) -> None:
    for linear in linears:
        linear.weight.mul_((2 * layers) ** -0.5)

"""A Prismatic with fresh weights, for training from nothing; public weights take their place."""

import torch
from torch import nn

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.backbones.towers import PrismaticVision
from visuomotor.models.cogact.config import CogACTConfig
from visuomotor.nn.decoder import DecoderLayer
from visuomotor.nn.vision import sinusoidal_grid
from visuomotor.nn.vit import ViTBlock

__all__ = ["fresh_backbone"]

POSITION_SCALE = 0.7  # as strong as the patches: a tower trained from nothing learns where things are much sooner


def fresh_backbone(config: CogACTConfig) -> DecoderBackbone:
    """Both towers, projector and language model, without the output layer, which is made behind the head."""
    vision = PrismaticVision(config.dinov2, config.siglip, config.llm.width)
    backbone = DecoderBackbone(vision, config.llm, config.reading)
    _initialize(backbone, vision)
    return backbone


@torch.no_grad()
def _initialize(backbone: DecoderBackbone, vision: PrismaticVision) -> None:
    """Unit-variance weights; what writes into a residual stream is scaled down with depth, as in GPT-2."""
    llm = backbone.llm
    for module in backbone.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(llm.embed_tokens.weight, std=llm.config.width**-0.5)
    for layer in llm.layers:
        assert isinstance(layer, DecoderLayer)
        _quieten(len(llm.layers), layer.self_attn.o_proj, layer.mlp.down_proj)
    for tower in (vision.dinov2, vision.siglip):
        for block in tower.blocks:
            assert isinstance(block, ViTBlock)
            _quieten(len(tower.blocks), block.attn.proj, block.mlp.fc2)
        if tower.config.width % 4 == 0:  # halves for columns and rows, each of sines and cosines
            tower.pos_embed[0] = POSITION_SCALE * sinusoidal_grid(tower.config.grid, tower.config.width)


def _quieten(layers: int, *linears: nn.Linear) -> None:
    for linear in linears:
        linear.weight.mul_((2 * layers) ** -0.5)

"""DM0: a causal vision-language model whose keys and values a flow-matching expert reads."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.backbones.towers import PerceptionVision
from visuomotor.heads.flow_expert import FlowExpert
from visuomotor.models.base import Cost
from visuomotor.models.dm0.config import DM0Config
from visuomotor.models.dm0.cost import sample_cost
from visuomotor.models.dm0.memory import training_memory
from visuomotor.models.report import TensorReport
from visuomotor.models.vla import VLA
from visuomotor.nn.decoder import GatedMLP, SelfAttention
from visuomotor.nn.vision import VisionBlock, sinusoidal_grid

__all__ = ["DM0"]

POSITION_SCALE = 0.7


class DM0(VLA):
    """The model of specification sections 1 and 8."""

    config: DM0Config
    backbone: DecoderBackbone
    head: FlowExpert

    def __init__(self, config: DM0Config) -> None:
        vision = PerceptionVision(config.vision, config.llm.width, config.image_pad)
        backbone = DecoderBackbone(vision, config.llm, config.reading)
        super().__init__(config, backbone, FlowExpert(config.head), config.routing)
        initialize(self)
        backbone.build_output()

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See `backbones.load_backbones`."""
        from visuomotor.models.dm0 import backbones

        return backbones.load_backbones(self, sources, generator=generator)

    def cost(self, batch_size: int = 1, text_length: int = 100, steps: int | None = None) -> Mapping[str, Cost]:
        """Cost of one `sample` of one chunk per observation, by part, all cameras present."""
        return sample_cost(self.config, batch_size, text_length, steps or self.config.denoise_steps)

    def training_memory(self, **options: Any) -> dict[str, int]:
        """See `memory.training_memory`."""
        return training_memory(self.config, self.parts(), **options)


@torch.no_grad()
def initialize(model: DM0) -> None:
    """Unit-variance weights; what writes into a residual stream is scaled down with depth, as in GPT-2."""

    def scale(module: nn.Module, layers: int) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for child in module.children():
            scale(child, layers)
        residual = []
        if isinstance(module, SelfAttention):
            residual = [module.o_proj]
        elif isinstance(module, GatedMLP):
            residual = [module.down_proj]
        elif isinstance(module, VisionBlock):
            nn.init.normal_(module.attn.in_proj_weight, std=module.attn.in_proj_weight.shape[1] ** -0.5)
            residual = [module.attn.out_proj, module.mlp.c_proj]
        for linear in residual:
            linear.weight.mul_(1 / math.sqrt(2 * layers))

    config, vision = model.config, model.backbone.vision
    assert isinstance(vision, PerceptionVision)
    scale(vision.tower, config.vision.layers)
    for module in (vision.projector, model.backbone.llm, *model.head.children()):
        scale(module, config.llm.layers)
    nn.init.normal_(model.backbone.llm.embed_tokens.weight, std=config.llm.width**-0.5)
    tower = vision.tower
    nn.init.normal_(tower.class_embedding, std=config.vision.width**-0.5)
    nn.init.zeros_(tower.positional_embedding)
    # As strong as the patches: a tower trained from nothing learns where things are much sooner.
    position: Tensor = tower.positional_embedding
    position[1:] = POSITION_SCALE * sinusoidal_grid(config.vision.grid, config.vision.width)

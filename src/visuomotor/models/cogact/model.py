"""CogACT: the last state of a Prismatic's prompt, its cognition feature, conditions a diffusion transformer."""

from collections.abc import Mapping

import torch

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.heads.diffusion_transformer import DiffusionTransformerHead
from visuomotor.models.cogact.config import CogACTConfig
from visuomotor.models.cogact.initialize import fresh_backbone
from visuomotor.models.report import TensorReport
from visuomotor.models.vla import VLA

__all__ = ["CogACT"]


class CogACT(VLA):
    """Two vision towers side by side, LLaMA-2, and an action model."""

    config: CogACTConfig
    backbone: DecoderBackbone
    head: DiffusionTransformerHead

    def __init__(self, config: CogACTConfig) -> None:
        backbone = fresh_backbone(config)
        super().__init__(config, backbone, DiffusionTransformerHead(config.head), config.gradient_routing)
        backbone.build_output()

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See `backbones.load_backbones`."""
        from visuomotor.models.cogact import backbones

        return backbones.load_backbones(self.backbone, sources)

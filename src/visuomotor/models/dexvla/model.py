"""DexVLA: Qwen2-VL reasons, and a diffusion head that reads its states acts."""

from collections.abc import Mapping

import torch

from visuomotor.backbones.qwen2_vl import Qwen2VLBackbone
from visuomotor.models.dexvla.config import DexVLAConfig
from visuomotor.models.dexvla.fusion import ReasoningHead
from visuomotor.models.report import TensorReport
from visuomotor.models.vla import VLA

__all__ = ["DexVLA"]


class DexVLA(VLA):
    """Its loss terms are "diffusion" (squared error of the predicted noise) and "text"."""

    config: DexVLAConfig
    backbone: Qwen2VLBackbone
    head: ReasoningHead

    def __init__(self, config: DexVLAConfig) -> None:
        super().__init__(config, Qwen2VLBackbone(config.backbone), ReasoningHead(config), config.routing)

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See `backbones.load_backbones`."""
        from visuomotor.models.dexvla import backbones

        return backbones.load_backbones(self, sources)

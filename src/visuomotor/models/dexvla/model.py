"""DexVLA: Qwen2-VL reasons, and a diffusion head that reads its states acts."""

from collections.abc import Mapping

import torch

from visuomotor.backbones.qwen2_vl import Qwen2VLBackbone
from visuomotor.models.base import Cost
from visuomotor.models.dexvla.config import DexVLAConfig
from visuomotor.models.dexvla.cost import sample_cost
from visuomotor.models.dexvla.fusion import ReasoningHead
from visuomotor.models.report import TensorReport
from visuomotor.models.vla import VLA

__all__ = ["DexVLA"]


class DexVLA(VLA):
    """Its loss terms are "diffusion" (squared error of the predicted noise) and "text"."""

    config: DexVLAConfig
    backbone: Qwen2VLBackbone
    head: ReasoningHead

    # Matrices of the VLM that adapters may stand beside (training/lora.py); the merger, as published, has none.
    lora_targets = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv", "proj", "fc1", "fc2",
    )  # fmt: skip

    def __init__(self, config: DexVLAConfig) -> None:
        super().__init__(config, Qwen2VLBackbone(config.backbone), ReasoningHead(config), config.routing)

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See `backbones.load_backbones`."""
        from visuomotor.models.dexvla import backbones

        return backbones.load_backbones(self, sources)

    def cost(self, batch_size: int = 1, text_length: int = 100, steps: int | None = None) -> Mapping[str, Cost]:
        """Cost of one `sample` of one chunk per observation, by part, all cameras present, nothing written."""
        return sample_cost(self.config, batch_size, text_length, steps or self.config.head.denoise_steps)

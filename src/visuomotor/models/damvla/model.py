"""DAM-VLA: a CogACT whose head routes, by its switches."""

from collections.abc import Mapping

import torch
from torch import Tensor

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.models.cogact.initialize import fresh_backbone
from visuomotor.models.damvla.config import DAMVLAConfig
from visuomotor.models.damvla.head import RoutedHead
from visuomotor.models.damvla.tensors import adopted
from visuomotor.models.report import TensorReport
from visuomotor.models.vla import VLA

__all__ = ["DAMVLA"]


class DAMVLA(VLA):
    """CogACT's backbone and a RoutedHead."""

    config: DAMVLAConfig
    backbone: DecoderBackbone
    head: RoutedHead

    def __init__(self, config: DAMVLAConfig) -> None:
        backbone = fresh_backbone(config)
        super().__init__(config, backbone, RoutedHead(config), config.gradient_routing)
        backbone.build_output()

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See CogACT's."""
        from visuomotor.models.cogact import backbones

        return backbones.load_backbones(self.backbone, sources)

    def adopt(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a CogACT, or of a DAM-VLA with one head, whose head both heads start from."""
        return adopted(state, two_heads=self.config.dam)

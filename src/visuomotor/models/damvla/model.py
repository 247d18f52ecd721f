"""DAM-VLA: a CogACT whose head routes, by its switches."""

from collections.abc import Mapping

import torch
from torch import Tensor

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.models.base import Cost
from visuomotor.models.cogact.cost import action_model_cost, vlm_cost
from visuomotor.models.cogact.initialize import fresh_backbone
from visuomotor.models.damvla.config import DAMVLAConfig
from visuomotor.models.damvla.head import RoutedHead
from visuomotor.models.damvla.tensors import adopted
from visuomotor.models.report import TensorReport
from visuomotor.models.vla import VLA

__all__ = ["DAMVLA"]


class DAMVLA(VLA):
    """CogACT's backbone and a RoutedHead."""

    sampling_fields = ("guidance", "routing", "hysteresis")
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

    def cost(self, batch_size: int = 1, text_length: int = 100, steps: int | None = None) -> Mapping[str, Cost]:
        """Cost of one `sample` of one chunk per observation, by part, all cameras present, all by the arm head."""
        config, head = self.config, self.head
        rows, steps = batch_size * (1 + (config.guidance > 1)), steps or config.denoise_steps
        found = vlm_cost(config.vlm, batch_size, config.num_views, text_length)
        found["action_model"] = action_model_cost(head.arm.config, rows, steps)
        if head.gripper is not None and config.routing == "soft":
            found["gripper_model"] = action_model_cost(head.gripper.config, rows, steps)
        if head.router is not None:
            weights = sum(p.numel() for p in head.router.layers.parameters())
            found["router"] = Cost(flops=2.0 * batch_size * weights, values_moved=weights)
        return found

"""DM0: a causal vision-language model whose keys and values a flow-matching expert reads."""

from collections.abc import Mapping

import torch

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.backbones.towers import PerceptionVision
from visuomotor.heads.flow_expert import FlowExpert
from visuomotor.models.dm0.config import DM0Config
from visuomotor.models.report import TensorReport
from visuomotor.models.vla import VLA
from visuomotor.nn.initialize import initialize

__all__ = ["DM0"]


class DM0(VLA):
    """The model of specification sections 1 and 8."""

    config: DM0Config
    backbone: DecoderBackbone
    head: FlowExpert

    def __init__(self, config: DM0Config) -> None:
        vision = PerceptionVision(config.vision, config.llm.width, config.image_pad)
        backbone = DecoderBackbone(vision, config.llm, config.reading)
        super().__init__(config, backbone, FlowExpert(config.head), config.routing)
        stacks = [(vision.tower, config.vision.layers)]
        stacks += [(m, config.llm.layers) for m in (vision.projector, backbone.llm, *self.head.children())]
        initialize(stacks)
        backbone.build_output()

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See `backbones.load_backbones`."""
        from visuomotor.models.dm0 import backbones

        return backbones.load_backbones(self, sources, generator=generator)

"""pi0 and pi0.5 as a preset: PaliGemma and a flow expert."""

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.backbones.towers import SiglipVision
from visuomotor.heads.flow_expert import FlowExpert
from visuomotor.models.pi0.config import Pi0Config
from visuomotor.models.vla import VLA
from visuomotor.nn.initialize import initialize

__all__ = ["Pi0"]


class Pi0(VLA):
    """See models/pi0/README.md."""

    config: Pi0Config
    backbone: DecoderBackbone
    head: FlowExpert

    def __init__(self, config: Pi0Config) -> None:
        vision = SiglipVision(config.vision, config.llm.width)
        backbone = DecoderBackbone(vision, config.llm, config.reading)
        super().__init__(config, backbone, FlowExpert(config.head), config.routing)
        stacks = [(vision.tower, config.vision.layers)]
        stacks += [(m, config.llm.layers) for m in (vision.projector, backbone.llm, *self.head.children())]
        initialize(stacks)

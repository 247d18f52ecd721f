"""OpenVLA-OFT as a preset: a Prismatic with bidirectional attention, and an L1 regression head."""

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.backbones.towers import PrismaticVision
from visuomotor.heads.regression import L1RegressionHead
from visuomotor.models.oft.config import OFTConfig
from visuomotor.models.vla import VLA, Routing
from visuomotor.nn.initialize import initialize

__all__ = ["OFT"]


class OFT(VLA):
    """See models/oft/README.md."""

    config: OFTConfig
    backbone: DecoderBackbone
    head: L1RegressionHead

    def __init__(self, config: OFTConfig) -> None:
        vision = PrismaticVision(config.dinov2, config.siglip, config.llm.width)
        backbone = DecoderBackbone(vision, config.llm, config.reading)
        super().__init__(config, backbone, L1RegressionHead(config.head), Routing())
        towers = [(vision.dinov2, config.dinov2.layers), (vision.siglip, config.siglip.layers)]
        initialize([*towers, (vision.projector, 1), (backbone.llm, config.llm.layers)])

"""Stage 1 of DexVLA's curriculum: the diffusion expert learns on its own, from all robots, what a sub-step looks like.

A residual network for each camera, modulated after every stage by the frozen embedding of the sub-step's text, makes
the condition that the vision-language model will make from Stage 2 on. Published files have other names of tensors
(`tensors.STAGE1_NAMES`; the head is `noise_pred_net.` there, and moves on).
"""

from typing import Any

from visuomotor.backbones.sentence_resnet import SentenceResNet
from visuomotor.contract import Batch, Losses
from visuomotor.heads.diffusion import ConditionedDiffusion
from visuomotor.heads.scaledp import ScaleDP
from visuomotor.models.dexvla.expert_config import SIZES, DexVLAExpertConfig, first_format
from visuomotor.models.dexvla.tensors import STAGE1_NAMES as NAMES
from visuomotor.models.spec import ModelSpec
from visuomotor.models.vla import VLA, Routing

__all__ = ["NAMES", "SIZES", "SPEC", "DexVLAExpert", "DexVLAExpertConfig", "first_format"]


class DexVLAExpert(VLA):
    """ScaleDP behind image encoders. A batch may mix robots, each of which has layers of its own on the trunk."""

    config: DexVLAExpertConfig
    backbone: SentenceResNet
    head: ConditionedDiffusion

    def __init__(self, config: DexVLAExpertConfig) -> None:
        backbone = SentenceResNet(config.resnet, config.image_roles, config.sentence_dim, config.head.cond_dim)
        super().__init__(config, backbone, ConditionedDiffusion(ScaleDP(config.head)), Routing())

    def loss(self, batch: Batch, **draws: Any) -> Losses:
        """One term, "diffusion"; see `VLA.loss`.

        Raises:
            ValueError: no actions, no sentence embedding, or a camera that the model has no encoder for.
        """
        if batch.actions is None:
            raise ValueError("Stage 1 learns from actions alone, but this batch has none; leave out such sources.")
        return super().loss(batch, **draws)


SPEC = ModelSpec(
    name="dexvla-expert",
    config=DexVLAExpertConfig,
    presets=SIZES,
    build=DexVLAExpert,
    names=NAMES,
    acting=("head",),
    first_format=first_format,
    recipe="dexvla-expert",
    exceptions={"decoupling": "nothing but actions teaches its encoders"},
)

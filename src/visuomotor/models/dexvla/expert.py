"""Stage 1 of DexVLA's curriculum: the diffusion expert learns on its own, from all robots, what a sub-step looks like.

A residual network for each camera, modulated after every stage by the frozen embedding of the sub-step's text, makes
the condition that the vision-language model will make from Stage 2 on. Published files have other names of tensors
(`tensors.STAGE1_NAMES`; the head is `noise_pred_net.` there, and moves on).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from visuomotor.backbones.sentence_resnet import SentenceResNet
from visuomotor.contract import Batch, Losses
from visuomotor.heads.diffusion import ConditionedDiffusion
from visuomotor.heads.scaledp import ScaleDP
from visuomotor.models.base import Cost
from visuomotor.models.dexvla.expert_config import SIZES, DexVLAExpertConfig, first_format
from visuomotor.models.dexvla.tensors import STAGE1_NAMES as NAMES
from visuomotor.models.vla import VLA, Routing

__all__ = ["NAMES", "SIZES", "DexVLAExpert", "DexVLAExpertConfig", "first_format"]


class DexVLAExpert(VLA):
    """ScaleDP behind image encoders. A batch may mix robots, each of which has layers of its own on the trunk."""

    name = "dexvla-expert"
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

    def cost(self, batch_size: int = 1, text_length: int = 0, steps: int | None = None) -> Mapping[str, Cost]:
        """Cost of one `sample` of one chunk per observation, all cameras present; counted on the meta device."""
        config = self.config
        steps = steps or config.head.denoise_steps
        with torch.device("meta"):
            model = DexVLAExpert(config)
            images = torch.zeros(batch_size, 3, config.image_size, config.image_size)
            sentence, state = torch.zeros(batch_size, config.sentence_dim), torch.zeros(batch_size, config.state_dim)
            x, cond = (
                torch.zeros(batch_size, config.horizon, config.action_dim),
                torch.zeros(batch_size, config.head.cond_dim),
            )
            time = torch.zeros(batch_size, dtype=torch.int64)
        robots = torch.zeros(batch_size, dtype=torch.int64)
        encoder = next(iter(model.backbone.encoders.values()))
        vision = _flops(lambda: encoder(images, sentence)) * len(config.image_roles)
        head = _flops(lambda: model.head.denoiser(x, time, cond[:, None], state, robots))
        values = {name: sum(p.numel() for p in own) for name, own in self.parts().items()}
        return {
            "vision": Cost(flops=vision, values_moved=values["vision"]),
            "projector": Cost(flops=2.0 * batch_size * values["projector"], values_moved=values["projector"]),
            "head": Cost(flops=steps * head, values_moved=steps * values["head"]),
        }


def _flops(work: Any) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        work()
    return float(counter.get_total_flops())

"""DexVLA: Qwen2-VL, which reasons, and a diffusion head, ScaleDP or the UNet it is compared with (README.md)."""

from visuomotor.models.dexvla.config import SCALEDP_SIZES, ScaleDPConfig, UNetConfig
from visuomotor.models.dexvla.embodiments import embodiment_state, plain_state
from visuomotor.models.dexvla.expert import DexVLAExpert, DexVLAExpertConfig
from visuomotor.models.dexvla.head import DiffusionHead
from visuomotor.models.dexvla.model import DexVLA
from visuomotor.models.dexvla.published import scaledp_from_published, unet_from_published
from visuomotor.models.dexvla.scaledp import ScaleDP
from visuomotor.models.dexvla.tensors import copy_into
from visuomotor.models.dexvla.transplant import read_stage1, transplant_stage1
from visuomotor.models.dexvla.unet import UNet
from visuomotor.models.dexvla.vla_config import SIZES, DexVLAConfig, QwenDecoderConfig, QwenVisionConfig, first_format

__all__ = [
    "SCALEDP_SIZES", "SIZES", "DexVLA", "DexVLAConfig", "DexVLAExpert", "DexVLAExpertConfig", "DiffusionHead",
    "QwenDecoderConfig", "QwenVisionConfig", "ScaleDP", "ScaleDPConfig", "UNet", "UNetConfig", "copy_into",
    "embodiment_state", "first_format", "plain_state", "read_stage1", "scaledp_from_published", "transplant_stage1",
    "unet_from_published",
]  # fmt: skip

"""DexVLA: Qwen2-VL, which reasons, and a diffusion head, ScaleDP or the UNet it is compared with (README.md)."""

from visuomotor.models.dexvla.checkpoint import ADAPTER
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
from visuomotor.models.spec import LORA_TARGETS, ModelSpec

__all__ = [
    "SCALEDP_SIZES", "SIZES", "SPEC", "DexVLA", "DexVLAConfig", "DexVLAExpert", "DexVLAExpertConfig", "DiffusionHead",
    "QwenDecoderConfig", "QwenVisionConfig", "ScaleDP", "ScaleDPConfig", "UNet", "UNetConfig", "copy_into",
    "embodiment_state", "first_format", "plain_state", "read_stage1", "scaledp_from_published", "transplant_stage1",
    "unet_from_published",
]  # fmt: skip

SPEC = ModelSpec(
    name="dexvla",
    config=DexVLAConfig,
    presets=SIZES,
    build=DexVLA,
    layout="qwen2_vl",
    checkpoint=ADAPTER,
    weights={"vlm": ("Qwen/Qwen2-VL-2B-Instruct",)},
    acting=("projectors", "film", "head"),
    # The merger has no adapters, as published.
    lora_targets=(*LORA_TARGETS, "qkv", "proj", "fc1", "fc2"),
    first_format=first_format,
    recipe="dexvla",
)

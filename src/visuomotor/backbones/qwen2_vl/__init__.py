"""Qwen2-VL as a backbone; its towers are those of transformers, which are imported when a model is built."""

from visuomotor.backbones.qwen2_vl.backbone import Qwen2VLBackbone
from visuomotor.backbones.qwen2_vl.config import Qwen2VLConfig, QwenDecoderConfig, QwenVisionConfig

__all__ = ["Qwen2VLBackbone", "Qwen2VLConfig", "QwenDecoderConfig", "QwenVisionConfig"]

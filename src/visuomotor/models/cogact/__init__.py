"""CogACT: the cognition feature of a vision-language model conditions a diffusion transformer (README.md)."""

from visuomotor.heads.diffusion_transformer import ActionModel, ActionModelConfig
from visuomotor.models.cogact.config import ACTION_MODEL_SIZES, SIZES, CogACTConfig, first_format
from visuomotor.models.cogact.model import CogACT
from visuomotor.models.cogact.tensors import NAMES, action_model_from_published

__all__ = [
    "ACTION_MODEL_SIZES", "NAMES", "SIZES", "ActionModel", "ActionModelConfig", "CogACT", "CogACTConfig",
    "action_model_from_published", "first_format",
]  # fmt: skip

"""CogACT: the cognition feature of a vision-language model conditions a diffusion transformer (README.md)."""

from visuomotor.models.cogact.action_model import ActionModel
from visuomotor.models.cogact.config import ACTION_MODEL_SIZES, SIZES, ActionModelConfig, CogACTConfig, first_format
from visuomotor.models.cogact.model import CogACT
from visuomotor.models.cogact.tensors import action_model_from_published

__all__ = [
    "ACTION_MODEL_SIZES", "SIZES", "ActionModel", "ActionModelConfig", "CogACT", "CogACTConfig",
    "action_model_from_published", "first_format",
]  # fmt: skip

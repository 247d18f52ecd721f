"""CogACT: the cognition feature of a vision-language model conditions a diffusion transformer (README.md)."""

from visuomotor.models.cogact.action_model import ActionModel
from visuomotor.models.cogact.config import SIZES, ActionModelConfig
from visuomotor.models.cogact.tensors import action_model_from_published

__all__ = ["SIZES", "ActionModel", "ActionModelConfig", "action_model_from_published"]

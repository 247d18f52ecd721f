"""CogACT: the cognition feature of a vision-language model conditions a diffusion transformer (README.md)."""

from visuomotor.heads.diffusion_transformer import ActionModel, ActionModelConfig
from visuomotor.models.cogact.checkpoint import ADAPTER
from visuomotor.models.cogact.config import ACTION_MODEL_SIZES, SIZES, CogACTConfig, first_format
from visuomotor.models.cogact.model import CogACT
from visuomotor.models.cogact.robots import ROBOTS
from visuomotor.models.cogact.tensors import NAMES, action_model_from_published
from visuomotor.models.spec import ModelSpec

__all__ = [
    "ACTION_MODEL_SIZES", "NAMES", "SIZES", "SPEC", "ActionModel", "ActionModelConfig", "CogACT", "CogACTConfig",
    "action_model_from_published", "first_format",
]  # fmt: skip

SPEC = ModelSpec(
    name="cogact",
    config=CogACTConfig,
    presets=SIZES,
    sampling_fields=("guidance",),
    build=CogACT,
    layout="cogact",
    checkpoint=ADAPTER,
    names=NAMES,
    weights={
        "dinov2": ("facebook/dinov2-with-registers-large",),
        "siglip": ("google/siglip-so400m-patch14-224",),
        "llm": ("meta-llama/Llama-2-7b-hf",),
    },
    robots=ROBOTS,
    acting=("action_model",),
    first_format=first_format,
    recipe="cogact",
    exceptions={"padding": "the loss averages over steps behind the episode's end (mask_padded is off)"},
)

"""DAM-VLA: a CogACT whose router sends each look to an arm head or to a gripper head (README.md)."""

from visuomotor.models.cogact import SPEC as COGACT
from visuomotor.models.damvla.config import COMBINATIONS, SIZES, DAMVLAConfig, first_format, switches
from visuomotor.models.damvla.model import DAMVLA
from visuomotor.models.damvla.tensors import NAMES
from visuomotor.models.spec import ModelSpec

__all__ = ["COMBINATIONS", "DAMVLA", "NAMES", "SIZES", "SPEC", "DAMVLAConfig", "first_format", "switches"]

# No checkpoint of it is published; it departs from common properties where CogACT, on which it builds, does.
SPEC = ModelSpec(
    name="damvla",
    config=DAMVLAConfig,
    presets=SIZES,
    sampling_fields=("guidance", "routing", "hysteresis"),
    build=DAMVLA,
    layout=COGACT.layout,
    names=NAMES,
    weights=COGACT.weights,
    acting=("action_model", "gripper_model", "router"),
    first_format=first_format,
    recipe="damvla-nano",
    exceptions=COGACT.exceptions,
)

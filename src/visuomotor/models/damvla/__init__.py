"""DAM-VLA: a CogACT whose router sends each look to an arm head or to a gripper head (README.md)."""

from visuomotor.models.damvla.config import COMBINATIONS, SIZES, DAMVLAConfig, first_format, switches
from visuomotor.models.damvla.model import DAMVLA
from visuomotor.models.damvla.tensors import NAMES

__all__ = ["COMBINATIONS", "DAMVLA", "NAMES", "SIZES", "DAMVLAConfig", "first_format", "switches"]

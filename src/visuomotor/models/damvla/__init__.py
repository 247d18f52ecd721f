"""DAM-VLA: a CogACT whose router sends each look to an arm head or to a gripper head (README.md)."""

from visuomotor.models.damvla.config import COMBINATIONS, SIZES, DAMVLAConfig, first_format, switches
from visuomotor.models.damvla.model import DAMVLA

__all__ = ["COMBINATIONS", "DAMVLA", "SIZES", "DAMVLAConfig", "first_format", "switches"]

"""The safety filter; see visuomotor_client.safety, which also runs without this library."""

from visuomotor_client.limits import SafetyLimits
from visuomotor_client.safety import MODES, Intervention, SafetyFilter

__all__ = ["MODES", "Intervention", "SafetyFilter", "SafetyLimits"]

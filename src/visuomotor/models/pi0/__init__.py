"""pi0 and pi0.5: PaliGemma whose keys and values a flow-matching expert reads (README.md)."""

from visuomotor.models.pi0.checkpoint import NAMES, PublishedPi0, from_published
from visuomotor.models.pi0.config import SIZES, Pi0Config
from visuomotor.models.pi0.folders import ADAPTER
from visuomotor.models.pi0.model import Pi0
from visuomotor.models.spec import ModelSpec

__all__ = ["NAMES", "SIZES", "SPEC", "Pi0", "Pi0Config", "PublishedPi0", "from_published"]

SPEC = ModelSpec(
    name="pi0", config=Pi0Config, presets=SIZES, build=Pi0, checkpoint=ADAPTER, names=NAMES,
    acting=("expert", "action_io"), recipe="pi0-nano",
    exceptions={"padding": "the flow loss averages over padded steps and widths (mask_padded is off)"},
)  # fmt: skip

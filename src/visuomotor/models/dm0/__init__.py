"""DM0: a causal VLM and a flow-matching action expert under merged attention. README.md says what was chosen."""

from visuomotor.models.dm0.checkpoint import ADAPTER
from visuomotor.models.dm0.config import SIZES, DM0Config, first_format
from visuomotor.models.dm0.model import DM0
from visuomotor.models.dm0.names import NAMES
from visuomotor.models.dm0.published import PublishedDM0, from_published
from visuomotor.models.dm0.robots import ROBOTS
from visuomotor.models.spec import ModelSpec

__all__ = ["DM0", "NAMES", "SIZES", "SPEC", "DM0Config", "PublishedDM0", "first_format", "from_published"]

SPEC = ModelSpec(
    name="dm0",
    config=DM0Config,
    presets=SIZES,
    build=DM0,
    checkpoint=ADAPTER,
    names=NAMES,
    weights={
        "llm": ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-1.7B"),
        "vision": ("facebook/PE-Core-S16-384", "facebook/PE-Lang-L14-448"),
    },
    robots=ROBOTS,
    acting=("expert", "action_io"),
    first_format=first_format,
    recipe="dm0",
    exceptions={"padding": "the flow loss averages over padded steps and widths (mask_padded is off)"},
)

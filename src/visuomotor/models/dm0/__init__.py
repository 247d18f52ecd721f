"""DM0: a causal VLM and a flow-matching action expert under merged attention. README.md says what was chosen."""

from visuomotor.models.dm0.config import SIZES, DM0Config, first_format
from visuomotor.models.dm0.model import DM0
from visuomotor.models.dm0.names import NAMES
from visuomotor.models.dm0.published import PublishedDM0, from_published

__all__ = ["DM0", "NAMES", "SIZES", "DM0Config", "PublishedDM0", "first_format", "from_published"]

"""OpenVLA-OFT: a bidirectional Prismatic whose states in front of queries become an action chunk (README.md)."""

from visuomotor.models.oft.checkpoint import NAMES, PublishedOFT, from_published
from visuomotor.models.oft.config import SIZES, OFTConfig
from visuomotor.models.oft.folder import PublishedFolder, read_folder, write_folder
from visuomotor.models.oft.model import OFT

__all__ = [
    "NAMES", "OFT", "SIZES", "OFTConfig", "PublishedFolder", "PublishedOFT", "from_published", "read_folder",
    "write_folder",
]  # fmt: skip

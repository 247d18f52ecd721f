"""OpenVLA-OFT: a bidirectional Prismatic whose states in front of queries become an action chunk (README.md)."""

from visuomotor.models.oft.checkpoint import NAMES, PublishedOFT, from_published
from visuomotor.models.oft.config import SIZES, OFTConfig
from visuomotor.models.oft.folder import read_folder, write_folder
from visuomotor.models.oft.model import OFT
from visuomotor.models.spec import ModelSpec

__all__ = ["SIZES", "SPEC", "OFTConfig", "PublishedOFT", "from_published", "read_folder", "write_folder"]

SPEC = ModelSpec(
    name="oft",
    config=OFTConfig,
    presets=SIZES,
    build=OFT,
    layout="openvla_oft",
    names=NAMES,
    acting=("action_head", "proprio_projector"),
    recipe="oft-nano",
    exceptions={
        "padding": "the loss averages over everything (mask_padded is off; its data has no padded steps)",
        "draws": "a chunk is predicted in one step: noise, times and steps are ignored",
        "guidance": "refused, since nothing is sampled that could be steered",
        "decoupling": "there is no such option, since no other loss trains the backbone",
    },
)

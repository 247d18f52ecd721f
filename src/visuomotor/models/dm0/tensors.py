"""Tensors under the published names: what model they describe, and how they get into it."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from visuomotor.codec import update
from visuomotor.models.assign import Precision, cast, count_numbered, decoder_fields, told_shape
from visuomotor.models.assign import assign as share
from visuomotor.models.dm0.config import SIZES, DM0Config
from visuomotor.models.dm0.model import DM0
from visuomotor.models.dm0.names import EXPERT, LLM, NAMES, TOWER
from visuomotor.models.report import TensorReport

__all__ = ["Precision", "assign", "config_of", "published_names"]

Shapes = Mapping[str, tuple[int, ...]]
# In published files but not read by the network.
UNUSED = re.compile(r"^(lm_head\.|model\.action_expert\.lm_head\.)")
PROGRESS = re.compile(r"^model\.progress_(in|out)_proj\.")
FLOAT32 = re.compile(r"input_layernorm|post_attention_layernorm|model\.norm|^model\.(action|progress)_(in|out|time)")
PE_HEAD = 64  # every published Perception Encoder has heads of this width


def published_names(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under names that begin with `model.`, which a state dict of the inner model leaves out."""
    if any(name.startswith("model.") for name in tensors):
        return dict(tensors)
    return {name if name.startswith("lm_head.") else f"model.{name}": value for name, value in tensors.items()}


def config_of(shapes: Shapes, head_dim: int, known: Mapping[str, Any]) -> DM0Config:
    """The configuration that published names and shapes describe; `known` has fields that they cannot tell.

    Raises:
        ValueError: a tensor that tells a dimension is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        return told_shape(shapes, name, "DM0 checkpoint")

    vocabulary, _ = shape(LLM + "embed_tokens.weight")
    tower_width, _, _, patch_size = shape(TOWER + "conv1.weight")
    grid = round((shape(TOWER + "positional_embedding")[0] - 1) ** 0.5)
    action_dim = shape("model.action_in_proj.weight")[1]
    fields: dict[str, Any] = {
        "vision.image_size": known.get("vision.patch_size", patch_size) * grid,
        "vision.patch_size": patch_size,
        "vision.width": tower_width,
        "vision.layers": count_numbered(shapes, TOWER + "transformer.resblocks."),
        "vision.heads": max(1, tower_width // PE_HEAD),
        "vision.mlp_width": shape(TOWER + "transformer.resblocks.0.mlp.c_fc.weight")[0],
        "llm.vocab_size": vocabulary,
        **decoder_fields(shapes, LLM, head_dim, "DM0 checkpoint"),
        "expert.width": shape(EXPERT + "norm.weight")[0],
        "expert.mlp_width": shape(EXPERT + "layers.0.mlp.gate_proj.weight")[0],
        "action_dim": action_dim,
        "state_dim": known.get("action_dim", action_dim),
        "action_start_id": None,
    }
    return update(SIZES["base"], {**fields, **known})


def assign(model: DM0, tensors: Mapping[str, Tensor], precision: Precision) -> TensorReport:
    """Put `tensors` into a model on the meta device; where file and model disagree, the report says so.

    Tensors of the right type are shared, not copied. What nothing filled stays on the meta device.
    """
    ignored = [n for n in tensors if UNUSED.match(n) or (PROGRESS.match(n) and not model.config.progress_token)]
    offered = cast({name: t for name, t in tensors.items() if name not in ignored}, precision, FLOAT32)
    return share(model, offered, ignored=ignored, names=NAMES)

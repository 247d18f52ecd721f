"""Tensors under the published names: which model they describe, and how they get into it."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from visuomotor.heads.diffusion_transformer import ActionModel, ActionModelConfig
from visuomotor.models.assign import assign, count_numbered, told_shape
from visuomotor.models.names import NameTable

__all__ = ["BACKBONE", "NAMES", "PUBLISHED", "VLM_NAMES", "WHAT", "action_config_of", "action_model_from_published"]

PUBLISHED = {
    "vision.dinov2.": "vision_backbone.dino_featurizer.",
    "vision.siglip.": "vision_backbone.siglip_featurizer.",
    "vision.projector.": "projector.projector.",
    "llm.": "llm_backbone.llm.model.",
    "lm_head.": "llm_backbone.llm.lm_head.",
}
# Of a backbone alone and the parts of a published file, and of a model and its checkpoints up to the second format.
BACKBONE = NameTable(PUBLISHED)
VLM_NAMES = {f"backbone.{own}": f"vlm.{theirs}" for own, theirs in PUBLISHED.items()}
NAMES = NameTable({**VLM_NAMES, "head.model.": "action_model."})

log = logging.getLogger(__name__)
Shapes = Mapping[str, tuple[int, ...]]
WHAT = "CogACT checkpoint"
UNCONDITION = "z_embedder.uncondition"
WIRED = (1, 4096)  # the unconditional vector of the published code, whatever the width of its features


def action_model_from_published(state_dict: Mapping[str, Tensor], num_heads: int, **settings: Any) -> ActionModel:
    """Build the action model that `state_dict` describes, and share its tensors; `settings` are configuration fields.

    The prefix `net.` of the names may be absent. The published code makes the unconditional vector 4096 wide whatever
    the features are; where they are not, that vector fits nothing: zeros take its place, and a warning says so.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the sentence names them.
    """
    tensors = {name.removeprefix("net."): tensor for name, tensor in state_dict.items()}
    config = action_config_of({name: tuple(t.shape) for name, t in tensors.items()}, num_heads=num_heads, **settings)
    wired = tensors.get(UNCONDITION)
    if wired is not None and tuple(wired.shape) == WIRED and config.token_size != WIRED[1]:
        log.warning(
            "%s is %s, but the cognition features have %d values, so it was never used in training; zeros take its "
            "place. Sample with guidance=1.", UNCONDITION, list(WIRED), config.token_size,
        )  # fmt: skip
        tensors[UNCONDITION] = wired.new_zeros(1, config.token_size)
    with torch.device("meta"):
        model = ActionModel(config)
    report = assign(model, tensors)
    if not report.complete:
        raise ValueError(f"The action model does not fit: {report.summary()}.")
    return model


def action_config_of(shapes: Shapes, *, num_heads: int, **settings: Any) -> ActionModelConfig:
    """The configuration that published names and shapes describe; the heads leave no trace in them.

    Raises:
        ValueError: a tensor that tells a dimension is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        return told_shape(shapes, name, WHAT)

    width, action_dim = shape("x_embedder.linear.weight")
    fields = {
        "width": width,
        "depth": count_numbered(shapes, "blocks.") or 1,  # with none the report names what is missing
        "heads": num_heads,
        "token_size": shape("z_embedder.linear.weight")[1],
        "action_dim": action_dim,
        "horizon": shape("positional_embedding")[0] - 1,
    }
    return ActionModelConfig(**{**fields, **settings})

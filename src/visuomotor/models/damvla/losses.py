"""How much each step of a chunk counts for each head, by the switches. Dimensions: B batch, T horizon."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from visuomotor.contract import Batch
from visuomotor.data.weighting import dual_scale
from visuomotor.models.cogact.model import weights_of
from visuomotor.models.damvla.config import DAMVLAConfig

__all__ = ["label", "step_weights"]

OWN = 0.5  # trajectory weight above which a step is the gripper head's own


def step_weights(
    config: DAMVLAConfig, batch: Batch, valid: Bool[Tensor, "B T A"]
) -> tuple[Float[Tensor, "B T"] | None, ...]:
    """For (arm head, gripper head) or the single head; None: all steps count 1. Steps after the episode count 0.

    Weights of the batch with other names multiply, as in CogACT.

    Raises:
        ValueError: the batch lacks a weight that the switches need.
    """
    others = weights_of(batch)
    if not (config.acw or config.tw or config.dam):
        return (others,)
    own = _own_weights(config, batch, valid)
    return own if others is None else tuple(weight * others for weight in own)


def _own_weights(config: DAMVLAConfig, batch: Batch, valid: Tensor) -> tuple[Tensor, ...]:
    found = {name: _weight(batch, name) for name in config.weighted}
    chunk = found["chunk"] if config.acw else valid.any(-1).float()
    if "trajectory" not in found:
        return (chunk, chunk) if config.dam else (chunk,)
    trajectory = found["trajectory"]
    if config.dam:
        return dual_scale(trajectory if config.tw else (trajectory > OWN).float(), chunk)
    factor = 1 + trajectory if config.single_head == "emphasis" else trajectory.clamp_min(config.weight_floor)
    return (chunk * factor,)


def label(batch: Batch) -> Float[Tensor, "B"]:
    """1 where the robot manipulates; ValueError where the batch does not say."""
    if "router" not in batch.labels:
        raise ValueError("The router needs labels, but this batch has none; set processor.router to true.")
    return batch.labels["router"].to(torch.float32)


def _weight(batch: Batch, name: str) -> Tensor:
    if name not in batch.weights:
        wanted = sorted({*batch.weights, name})
        raise ValueError(
            f"The switches of this DAM-VLA need the weight {name!r}, but the batch has {sorted(batch.weights)}; set "
            f"processor.weights to {wanted}, or switch acw and tw off."
        )
    return batch.weights[name]

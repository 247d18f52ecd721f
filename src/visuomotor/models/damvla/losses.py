"""How much each step of a chunk counts for each head, by the switches. Dimensions: B batch, T horizon."""

import torch
from jaxtyping import Float
from torch import Tensor

from visuomotor.data.weighting import dual_scale
from visuomotor.heads.base import Targets, step_weights
from visuomotor.models.damvla.config import DAMVLAConfig

__all__ = ["SCALES", "label", "weights_by_head"]

OWN = 0.5  # trajectory weight above which a step is the gripper head's own
SCALES = ("trajectory", "chunk")  # weights that the switches read; switched off, they mean nothing


def weights_by_head(config: DAMVLAConfig, targets: Targets) -> tuple[Float[Tensor, "B T"] | None, ...]:
    """For (arm head, gripper head) or the single head; None: all steps count 1. Steps after the episode count 0.

    Weights of the batch with other names multiply, as in CogACT.

    Raises:
        ValueError: the batch lacks a weight that the switches need.
    """
    others = step_weights(targets, but=SCALES)
    if not (config.acw or config.tw or config.dam):
        return (others,)
    own = _own_weights(config, targets)
    return own if others is None else tuple(weight * others for weight in own)


def _own_weights(config: DAMVLAConfig, targets: Targets) -> tuple[Tensor, ...]:
    found = {name: _weight(targets, name) for name in config.weighted}
    chunk = found["chunk"] if config.acw else targets.valid.any(-1).float()
    if "trajectory" not in found:
        return (chunk, chunk) if config.dam else (chunk,)
    trajectory = found["trajectory"]
    if config.dam:
        return dual_scale(trajectory if config.tw else (trajectory > OWN).float(), chunk)
    factor = 1 + trajectory if config.single_head == "emphasis" else trajectory.clamp_min(config.weight_floor)
    return (chunk * factor,)


def label(targets: Targets) -> Float[Tensor, "B"]:
    """1 where the robot manipulates; ValueError where the batch does not say."""
    if "router" not in targets.labels:
        raise ValueError("The router needs labels, but this batch has none; set processor.router to true.")
    return targets.labels["router"].to(torch.float32)


def _weight(targets: Targets, name: str) -> Tensor:
    if name not in targets.weights:
        wanted = sorted({*targets.weights, name})
        raise ValueError(
            f"The switches of this DAM-VLA need the weight {name!r}, but the batch has {sorted(targets.weights)}; set "
            f"processor.weights to {wanted}, or switch acw and tw off."
        )
    return targets.weights[name]

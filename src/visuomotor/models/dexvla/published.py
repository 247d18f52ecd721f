"""Heads from state dicts under the published names, at any size; dimensions are read from the shapes."""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from visuomotor.heads.diffusion import DiffusionHead
from visuomotor.heads.diffusion_config import ScaleDPConfig, TimeTable, UNetConfig
from visuomotor.heads.scaledp import ScaleDP
from visuomotor.heads.unet import UNet
from visuomotor.models.assign import assign, count_numbered, told_shape

__all__ = ["scaledp_config", "scaledp_from_published", "unet_config", "unet_from_published"]

State = Mapping[str, Tensor]
Head = TypeVar("Head", bound=DiffusionHead)


def scaledp_from_published(state_dict: State, num_heads: int, *, time_table: TimeTable = "bfloat16") -> ScaleDP:
    """The ScaleDP that `state_dict` describes; its tensors are shared, not copied, and keep their types.

    The loss divides as the published code does (`mean_over="all"`).

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the error names them.
    """

    with torch.device("meta"):
        head = ScaleDP(scaledp_config(state_dict, num_heads=num_heads, time_table=time_table))
    return _filled(head, state_dict)


def scaledp_config(state_dict: State, *, num_heads: int, time_table: TimeTable = "bfloat16") -> ScaleDPConfig:
    """What the shapes of a published ScaleDP tell of it; see `scaledp_from_published`."""

    def shape(name: str) -> tuple[int, ...]:
        return told_shape(shapes, name, "ScaleDP head")

    shapes = {name: tensor.shape for name, tensor in state_dict.items()}

    width, action_dim = shape("x_embedder.weight")
    cond_dim = shape("cond_obs_emb.weight")[1]
    combine_width, combined = shape("combine.0.weight")
    return ScaleDPConfig(
        action_dim=action_dim,
        state_dim=combined - cond_dim,
        cond_dim=cond_dim,
        horizon=shape("pos_embed")[1],
        width=width,
        depth=count_numbered(state_dict, "blocks."),
        heads=num_heads,
        mlp_ratio=shape("blocks.0.mlp.fc1.weight")[0] / width,
        combine_width=combine_width,
        time_size=shape("t_embedder.mlp.0.weight")[1],
        pooled="norm_after_pool.weight" in state_dict,
        time_table=time_table,
        mean_over="all",
    )


def unet_from_published(
    state_dict: State,
    num_groups: int = 8,
    *,
    final_groups: int = 8,
    horizon: int = 16,
    time_table: TimeTable = "bfloat16",
) -> UNet:
    """The UNet that `state_dict` describes; see `scaledp_from_published`. No weight depends on the horizon."""
    groups = {"num_groups": num_groups, "final_groups": final_groups}
    with torch.device("meta"):
        head = UNet(unet_config(state_dict, **groups, horizon=horizon, time_table=time_table))
    return _filled(head, state_dict)


def unet_config(
    state_dict: State,
    *,
    num_groups: int = 8,
    final_groups: int = 8,
    horizon: int = 16,
    time_table: TimeTable = "bfloat16",
) -> UNetConfig:
    """What the shapes of a published UNet tell of it; see `unet_from_published`."""

    def shape(name: str) -> tuple[int, ...]:
        return told_shape(shapes, name, "UNet head")

    shapes = {name: tensor.shape for name, tensor in state_dict.items()}

    cond_dim = shape("norm_after_pool.weight")[0]
    levels = range(count_numbered(state_dict, "down_modules."))
    first = "blocks.0.block.0.weight"
    return UNetConfig(
        action_dim=shape("final_conv.1.weight")[0],
        state_dim=shape("combine.weight")[1] - cond_dim,
        cond_dim=cond_dim,
        horizon=horizon,
        step_width=shape("diffusion_step_encoder.1.weight")[1],
        channels=tuple(shape(f"down_modules.{level}.0.{first}")[0] for level in levels),
        kernel=shape(f"down_modules.0.0.{first}")[2],
        groups=num_groups,
        final_groups=final_groups,
        time_table=time_table,
        mean_over="all",
    )


def _filled(head: Head, state: State) -> Head:
    report = assign(head, state)
    if not report.complete:
        raise ValueError(f"The head that the shapes describe does not fit: {report.summary()}.")
    return head

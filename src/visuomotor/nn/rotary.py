"""Rotary position embeddings: half-split pairs for decoders, interleaved 2-D pairs for vision."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["Rotation", "decoder_rotation", "grid_rotation", "rotate_halves", "rotate_pairs"]

Rotation = tuple[Tensor, Tensor]  # cosines and sines, one value per rotated pair


def decoder_rotation(positions: Int64[Tensor, "B S"], head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """(cos, sin), each [B, 1, S, head_dim / 2], computed in float32 from frequencies in `dtype`.

    A published model that is cast to bfloat16 casts its table of frequencies with it.
    """
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = positions[:, None, :, None].float() * (theta**-exponent).to(dtype).float()
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate_halves(x: Float[Tensor, "B H S D"], rotation: Rotation) -> Tensor:
    """Rotates the pairs (i, i + D/2), the convention of Qwen and LLaMA."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def grid_rotation(
    side: int,
    head_dim: int,
    theta: float = 10_000.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Rotation:
    """(cos, sin), each [1 + side * side, head_dim / 2]: zero angles for the class token, then the rows of a grid.

    Coordinates count from 1; the first half of the pairs turns with the column, the second with the row. The table of
    angles has `dtype`, as in a published tower that is cast.
    """
    half = head_dim // 2
    frequency = theta ** -(torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    angle = torch.arange(1, side + 1, dtype=torch.float32, device=device)[:, None] * frequency
    column = angle[None, :, :].expand(side, side, -1)
    row = angle[:, None, :].expand(side, side, -1)
    angles = torch.cat([column, row], dim=-1).reshape(side * side, half)
    angles = torch.cat([torch.zeros(1, half, device=device), angles]).to(dtype)
    return angles.cos(), angles.sin()


def rotate_pairs(x: Float[Tensor, "... S D"], rotation: Rotation) -> Tensor:
    """Rotates the adjacent pairs (2i, 2i + 1)."""
    cos, sin = rotation
    if x.dtype == torch.float32 and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # One complex product instead of four passes over memory: four times faster here.
        turned = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.complex(cos, sin)
        return torch.view_as_real(turned).flatten(-2)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)

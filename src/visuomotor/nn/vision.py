"""Perception Encoder tower with one or two stride-2 convolutions, and the images' way into it.

Names follow the published checkpoints (open_clip style). Dimensions: B images, S tokens, W width, G grid side.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from visuomotor.nn.rotary import Rotation, grid_rotation, rotate_pairs

__all__ = ["PerceptionEncoder", "VisionConfig", "prepare_images", "resize_bytes", "resize_positions", "sinusoidal_grid"]


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Dimensions of the tower.

    `image_size` is the native side in pixels, `layer_scale` the initial gamma, `downsamples` the number of stride-2
    convolutions, each of which doubles the width (published: 2).
    """

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    layer_scale: float = 0.1
    norm_eps: float = 1e-5
    downsamples: int = 2

    def __post_init__(self) -> None:
        if self.downsamples not in (1, 2):
            raise ValueError(f"downsamples is {self.downsamples}, but the tower has 1 or 2 stride-2 convolutions.")
        if self.image_size % self.patch_size:
            raise ValueError(f"Image side {self.image_size} is not a multiple of the patch side {self.patch_size}.")
        if self.width % self.heads or (self.width // self.heads) % 4:
            raise ValueError(
                f"Width {self.width} over {self.heads} heads: 2-D rotary needs a head width that is a multiple of 4."
            )

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def output_width(self) -> int:
        return 2**self.downsamples * self.width

    def tokens(self, image_size: int | None = None) -> int:
        """Tokens per view after the convolutions, each of which halves the side, rounding up."""
        return self.sides(image_size)[-1] ** 2

    def sides(self, image_size: int | None = None) -> list[int]:
        """Side of the grid of patches, then after each convolution."""
        sides = [(image_size or self.image_size) // self.patch_size]
        for _ in range(self.downsamples):
            sides.append(math.ceil(sides[-1] / 2))
        return sides


def prepare_images(
    images: UInt8[Tensor, "B h w 3"], size: int, pad: Literal["grey", "black"] = "grey"
) -> Float[Tensor, "B 3 size size"]:
    """Centre on a square canvas, antialiased bicubic resize where the size differs, scale to [-1, 1]."""
    x = images.permute(0, 3, 1, 2)
    height, width = x.shape[2:]
    side = max(height, width)
    if height != width:
        top, left = (side - height) // 2, (side - width) // 2
        fill = 127 if pad == "grey" else 0
        x = F.pad(x, (left, side - width - left, top, side - height - top), value=fill)
    return (resize_bytes(x, size).float() / 255 - 0.5) / 0.5


def resize_bytes(x: UInt8[Tensor, "B 3 h w"], size: int) -> Tensor:
    """Antialiased bicubic resize to a square of whole values 0-255, whatever the aspect; unchanged where it fits."""
    if tuple(x.shape[2:]) == (size, size):
        return x
    if x.device.type == "cpu":  # the 8-bit kernel is PIL's, to one level in a few pixels of a thousand
        return F.interpolate(x, (size, size), mode="bicubic", antialias=True)
    return F.interpolate(x.float(), (size, size), mode="bicubic", antialias=True).round().clamp(0, 255)


class LayerScale(nn.Module):
    """A learned factor per channel, applied through the linear before it: the activations are not touched again."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor, layer: nn.Linear) -> Tensor:
        return F.linear(x, layer.weight * self.gamma[:, None], layer.bias * self.gamma)


class VisionAttention(nn.Module):
    """Full attention with a fused projection in q | k | v order and rotary positions on q and k."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation, scale: LayerScale) -> Float[Tensor, "B S W"]:
        """Output of the attention, times `scale`."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(rotate_pairs(q, rotation), rotate_pairs(k, rotation), v)
        return scale(out.transpose(1, 2).flatten(2), self.out_proj)


class VisionMLP(nn.Module):
    """Two linears around an exact GELU."""

    def __init__(self, width: int, mlp_width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, mlp_width)
        self.c_proj = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor, scale: LayerScale) -> Tensor:
        return scale(F.gelu(self.c_fc(x)), self.c_proj)


class VisionBlock(nn.Module):
    """Pre-norm block with LayerScale on both branches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.attn = VisionAttention(config.width, config.heads)
        self.mlp = VisionMLP(config.width, config.mlp_width)
        self.ls_1 = LayerScale(config.width, config.layer_scale)
        self.ls_2 = LayerScale(config.width, config.layer_scale)
        self.ln_1 = nn.LayerNorm(config.width, config.norm_eps)
        self.ln_2 = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.attn(self.ln_1(x), rotation, self.ls_1)
        return x + self.mlp(self.ln_2(x), self.ls_2)


class Transformer(nn.Module):
    """Holds the blocks under their published name."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(VisionBlock(config) for _ in range(config.layers))


class PerceptionEncoder(nn.Module):
    """Square images in [-1, 1] -> tokens [B, S, `output_width`]; S is `VisionConfig.tokens()`.

    `checkpoint`: blocks keep only their inputs, and are computed again in the backward pass.
    """

    checkpoint = False

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2 + 1, width))
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.ln_pre = nn.LayerNorm(width, config.norm_eps)
        self.transformer = Transformer(config)
        self.vit_downsampler1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        if config.downsamples == 2:
            self.vit_downsampler2 = nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1)

    def forward(self, images: Float[Tensor, "B 3 size size"]) -> Float[Tensor, "B S output_width"]:
        batch, _, height, width = images.shape
        if height != width or height % self.config.patch_size:
            raise ValueError(
                f"Images are {height} x {width}, but the tower takes squares whose side is a multiple of "
                f"{self.config.patch_size}; use prepare_images."
            )
        side = height // self.config.patch_size
        # A stride equal to the kernel is a plain matrix product over patches, faster than the convolution.
        patch = self.config.patch_size
        patches = images.unflatten(2, (side, patch)).unflatten(4, (side, patch)).permute(0, 2, 4, 1, 3, 5)
        x = F.linear(patches.flatten(3).flatten(1, 2), self.conv1.weight.flatten(1))
        x = torch.cat([self.class_embedding.expand(batch, 1, -1), x], dim=1) + self._positions(side)
        x = self.ln_pre(x)
        rotation = grid_rotation(side, self.config.width // self.config.heads, device=x.device, dtype=x.dtype)
        for block in self.transformer.resblocks:
            if self.checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, rotation, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, rotation)
        grid = x[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # channels-last memory, no copy
        reduced = self.vit_downsampler1(grid)
        if self.config.downsamples == 2:
            reduced = self.vit_downsampler2(reduced)
        return reduced.flatten(2).transpose(1, 2)

    def _positions(self, side: int) -> Tensor:
        return resize_positions(self.positional_embedding, side)


def resize_positions(table: Float[Tensor, "S W"], side: int) -> Float[Tensor, "R W"]:
    """A position table (class token, then a square grid row by row) for a grid of `side`, bilinearly."""
    native = math.isqrt(table.shape[0] - 1)
    if native**2 != table.shape[0] - 1:
        raise ValueError(f"A table of {table.shape[0]} positions is no class token and a square grid.")
    if side == native:
        return table
    grid = table[1:].T.unflatten(1, (native, native))[None]
    resized = F.interpolate(grid, (side, side), mode="bilinear", align_corners=False)[0].flatten(1).T
    return torch.cat([table[:1], resized])


def sinusoidal_grid(side: int, width: int) -> Float[Tensor, "S W"]:
    """Sines and cosines of the column, then of the row, of a `side` x `side` grid, row-major.

    Wavelengths run geometrically from twice the side down to two patches. `width` must be a multiple of 4.
    """
    if width % 4:
        raise ValueError(f"Width {width} must be a multiple of 4: sines and cosines of columns and rows.")
    frequency = math.pi * torch.logspace(-math.log10(side), 0, width // 4)
    angle = (torch.arange(side) + 0.5)[:, None] * frequency
    code = torch.cat([angle.sin(), angle.cos()], dim=1)
    columns, rows = code.expand(side, side, -1), code[:, None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).flatten(0, 1)

"""A plain vision transformer under timm's names: DINOv2 with registers, and SigLIP as in timm or in PaliGemma.

Dimensions: B images, N patches, P prefix tokens, S = P + N tokens, W width.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from visuomotor.nn.dit import MLP, SelfAttention
from visuomotor.nn.vision import LayerScale
from visuomotor.spelling import require_choices

__all__ = ["DINOV2_LARGE", "SIGLIP_SO400M", "ViT", "ViTConfig", "resize_grid"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Dimensions of a tower for square images of `image_size` pixels.

    class_token, registers   the prefix tokens, in this order in front of the patches; they have no position
    layer_scale              initial gain per channel of both branches of a block; None: blocks without gains
    gelu                     exact ("none", as in timm) or with the tanh approximation (PaliGemma)
    split_qkv                queries, keys and values are three matrices (PaliGemma) instead of one (timm)
    film                     width of a condition that scales and shifts the tokens in every block (FiLM); 0: none
    """

    image_size: int = 224
    patch_size: int = 14
    width: int
    layers: int
    heads: int
    mlp_width: int
    class_token: bool = False
    registers: int = 0
    layer_scale: float | None = None
    gelu: Literal["none", "tanh"] = "none"
    split_qkv: bool = False
    film: int = 0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"Image side {self.image_size} is not a multiple of the patch side {self.patch_size}.")
        if self.layers < 1 or self.registers < 0:
            raise ValueError(f"A tower has at least 1 layer and 0 registers, not {self.layers} and {self.registers}.")
        require_choices(self)

    @property
    def grid(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        return self.grid**2

    @property
    def prefix_tokens(self) -> int:
        return int(self.class_token) + self.registers


# timm: vit_large_patch14_reg4_dinov2 and vit_so400m_patch14_siglip_224
DINOV2_LARGE = ViTConfig(
    width=1024, layers=24, heads=16, mlp_width=4096, class_token=True, registers=4, layer_scale=1e-5
)
SIGLIP_SO400M = ViTConfig(width=1152, layers=27, heads=16, mlp_width=4304)


class PatchEmbedding(nn.Module):
    """A convolution whose stride is its kernel (`proj`), computed as the matrix product over patches that it is."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)

    def forward(self, images: Float[Tensor, "B 3 size size"]) -> Float[Tensor, "B N W"]:
        patch = self.proj.kernel_size[0]
        side = images.shape[-1] // patch
        patches = images.unflatten(2, (side, patch)).unflatten(4, (side, patch)).permute(0, 2, 4, 1, 3, 5)
        flat = patches.flatten(3).flatten(1, 2).to(self.proj.weight.dtype)
        return F.linear(flat, self.proj.weight.flatten(1), self.proj.bias)


class ViTBlock(nn.Module):
    """Pre-norm block, with or without LayerScale on both branches, and FiLM between them (OpenVLA-OFT+)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, gain = config.width, config.layer_scale
        self.norm1, self.norm2 = (nn.LayerNorm(width, config.norm_eps) for _ in range(2))
        self.attn = SelfAttention(width, config.heads, split=config.split_qkv)
        self.mlp = MLP(width, config.mlp_width, config.gelu)
        self.ls1, self.ls2 = (None if gain is None else LayerScale(width, float(gain)) for _ in range(2))
        self.scale, self.shift = (nn.Linear(config.film, width) if config.film else None for _ in range(2))

    def forward(self, x: Float[Tensor, "B S W"], condition: Float[Tensor, "B C"] | None = None) -> Tensor:
        attended = self.attn(self.norm1(x))
        x = x + (attended if self.ls1 is None else attended * self.ls1.gamma)
        if self.scale is not None and self.shift is not None:
            x = x * (1 + self.scale(condition)[:, None]) + self.shift(condition)[:, None]
        made = self.mlp(self.norm2(x))
        return x + (made if self.ls2 is None else made * self.ls2.gamma)


class ViT(nn.Module):
    """Normalised square images -> tokens of any block.

    `checkpoint`: blocks keep only their inputs, and are computed again in the backward pass.
    """

    checkpoint = False

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = PatchEmbedding(config)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, config.patches, width))
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if config.class_token else None
        self.reg_token = nn.Parameter(0.02 * torch.randn(1, config.registers, width)) if config.registers else None
        self.blocks = nn.ModuleList(ViTBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, config.norm_eps)

    def forward(
        self,
        images: Float[Tensor, "B 3 size size"],
        block: int = -2,
        *,
        norm: bool = False,
        condition: Float[Tensor, "B C"] | None = None,
    ) -> tuple[Float[Tensor, "B P W"], Float[Tensor, "B N W"]]:
        """(prefix tokens: class, then registers; patch tokens, row by row) behind block number `block`.

        Blocks count from 0, or from the end as -1; those behind it are not run. `norm` applies the final norm.
        condition: what FiLM modulates by.

        Raises:
            ValueError: the images are of another size, there is no such block, or a condition without FiLM or FiLM
                without a condition.
        """
        size, layers = self.config.image_size, self.config.layers
        if tuple(images.shape[1:]) != (3, size, size):
            raise ValueError(f"Images are {list(images.shape)}, but this tower takes [B, 3, {size}, {size}].")
        if not -layers <= block < layers:
            raise ValueError(f"There is no block {block} in a tower of {layers}; choose one from {-layers} on.")
        if (condition is None) == bool(self.config.film):
            raise ValueError(f"film is {self.config.film}: a tower takes a condition exactly where it has FiLM.")
        x = self.patch_embed(images) + self.pos_embed
        prefix = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.reg_token) if token is not None]
        # Published bfloat16 models keep the embedding in float32 and the blocks in bfloat16.
        x = torch.cat([*prefix, x], dim=1).to(self.norm.weight.dtype)
        for layer in self.blocks[: block % layers + 1]:
            if self.checkpoint and torch.is_grad_enabled():
                x = checkpoint(layer, x, condition, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer(x, condition)
        x = self.norm(x) if norm else x
        return x[:, : self.config.prefix_tokens], x[:, self.config.prefix_tokens :]


def resize_grid(table: Float[Tensor, "N W"], side: int) -> Float[Tensor, "R W"]:
    """Positions of a square grid, row by row, for one of `side`: antialiased bicubic in float32, as timm does it.

    Raises:
        ValueError: the table is not that of a square grid.
    """
    native = math.isqrt(len(table))
    if native**2 != len(table):
        raise ValueError(f"A table of {len(table)} positions is no square grid.")
    if native == side:
        return table
    grid = table.float().T.unflatten(1, (native, native))[None]
    resized = F.interpolate(grid, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].flatten(1).T.to(table.dtype)

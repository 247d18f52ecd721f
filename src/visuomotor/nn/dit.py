"""Diffusion transformer parts (Peebles and Xie, 2023) under timm's names: attention, MLP, blocks, time embedding.

Dimensions: B batch, S tokens, W width, H heads.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MLP", "Block", "SelfAttention", "TimeEmbedding", "modulate", "per_sample", "sinusoids"]


def sinusoids(
    time: Float[Tensor, "B"],
    size: int,
    *,
    dtype: torch.dtype = torch.float32,
    sine_first: bool = False,
    reach_last: bool = False,
    round_all: bool = False,
) -> Float[Tensor, "B size"]:
    """Sinusoidal time embedding: [cos | sin] of `time` at size / 2 frequencies exp(-ln(10000) k / (size / 2)).

    Released weights learned with tables that were made in bfloat16, by one of two roundings:

    | | `dtype` | `dtype` and `round_all` |
    |---|---|---|
    | index k | rounded | rounded |
    | exponent | rounded after the product and after the quotient | rounded once |
    | frequency | rounded | rounded |
    | angle, sine, cosine | float32 | rounded |
    | table | rounded | rounded |
    | code | ScaleDP of DexVLA | UNet of DexVLA |

    `reach_last`: the denominator is size / 2 - 1, so that the last frequency is 1 / 10000.
    """
    half = size // 2
    inner = dtype if round_all else torch.float32
    steps = torch.arange(half, device=time.device, dtype=torch.float32).to(dtype)
    if round_all:
        steps = steps.float()  # one rounding, behind the quotient; otherwise each operation rounds to `dtype`
    exponent = -math.log(10_000) * steps / (half - reach_last)
    frequency = torch.exp(exponent.to(inner))
    angle = time.to(inner)[:, None] * frequency.to(dtype).to(inner)
    parts = (angle.sin(), angle.cos()) if sine_first else (angle.cos(), angle.sin())
    return torch.cat(parts, dim=-1).to(dtype)


def per_sample(time: Tensor | int, x: Float[Tensor, "B ..."]) -> Tensor:
    """One time for each row of `x`; a single one is everybody's."""
    time = torch.as_tensor(time, device=x.device)
    return time.expand(len(x)) if time.ndim == 0 else time


class TimeEmbedding(nn.Module):
    """Diffusion times -> [B, W] through sinusoids and two linears (`mlp.0`, `mlp.2`)."""

    def __init__(self, width: int, size: int = 256, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.size, self.dtype = size, dtype
        self.mlp = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        code = sinusoids(time, self.size, dtype=self.dtype)
        return self.mlp(code.to(next(self.mlp.parameters()).dtype))


class SplitLinear(nn.Module):
    """Queries, keys and values by three linears (`q`, `k`, `v`), one behind the other as of a fused one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Float[Tensor, "B S W"]) -> Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


class SelfAttention(nn.Module):
    """Full attention (`qkv`, `proj`); queries, keys and values are one matrix, or three with `split`."""

    def __init__(self, width: int, heads: int, *, split: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"Width {width} does not split into {heads} heads.")
        self.heads = heads
        self.qkv = SplitLinear(width) if split else nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B S W"]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linears (`fc1`, `fc2`) around a GELU, tanh-approximated or exact ("none")."""

    def __init__(self, width: int, hidden: int, approximate: Literal["tanh", "none"] = "tanh") -> None:
        super().__init__()
        self.approximate = approximate
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


def modulate(x: Float[Tensor, "B S W"], shift: Float[Tensor, "B W"], scale: Float[Tensor, "B W"]) -> Tensor:
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Block(nn.Module):
    """Pre-norm block without affine norms; with `modulated`, shifted, scaled and gated by a condition (adaLN).

    `rows` [B, 6 W] are the block's modulation, (shift, scale, gate) of attention, then of the MLP: `modulation(c)`
    computes them, for all denoising steps at once where the caller wants that.
    """

    def __init__(self, width: int, heads: int, *, mlp_ratio: float = 4.0, modulated: bool) -> None:
        super().__init__()
        self.width = width
        self.attn = SelfAttention(width, heads)
        self.mlp = MLP(width, int(width * mlp_ratio))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)) if modulated else None

    def modulation(self, condition: Float[Tensor, "*B W"]) -> Float[Tensor, "*B 6W"]:
        assert self.adaLN_modulation is not None, "an unmodulated block has no condition"
        return self.adaLN_modulation(condition)

    def forward(self, x: Float[Tensor, "B S W"], rows: Float[Tensor, "B 6W"] | None = None) -> Tensor:
        if rows is None:
            x = x + self.attn(self._norm(x))
            return x + self.mlp(self._norm(x))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = rows.chunk(6, dim=-1)
        x = x + gate_a[:, None] * self.attn(modulate(self._norm(x), shift_a, scale_a))
        return x + gate_m[:, None] * self.mlp(modulate(self._norm(x), shift_m, scale_m))

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,), eps=1e-6)

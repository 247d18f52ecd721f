"""Time tables by their definition: one number after the other, rounded wherever the published code rounds."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["scaledp", "unet", "former"]


def rounded(value: float, dtype: torch.dtype) -> float:
    return torch.tensor(value, dtype=torch.float64).to(dtype).item()


def scaledp_frequency(k: int, half: int, dtype: torch.dtype) -> float:
    """exp(-ln(10000) k / half) with a rounding behind every operation; also DiT's and CogACT's in float32."""
    product = rounded(-math.log(10_000) * rounded(k, dtype), dtype)
    return rounded(math.exp(rounded(product / half, dtype)), dtype)


def unet_frequency(k: int, half: int, dtype: torch.dtype) -> float:
    """exp(k c) with c = -ln(10000) / (half - 1), a constant that is not rounded to `dtype`."""
    return rounded(math.exp(rounded(rounded(k, dtype) * (-math.log(10_000) / (half - 1)), dtype)), dtype)


def former_frequency(k: int, half: int, dtype: torch.dtype) -> float:
    """A rule that no released code follows: exact exponents, rounded frequencies."""
    return rounded(math.exp(-math.log(10_000) * k / half), dtype)


FREQUENCIES: dict[Rule, Callable[[int, int, torch.dtype], float]] = {
    "scaledp": scaledp_frequency,
    "unet": unet_frequency,
    "former": former_frequency,
}


def time_table(times: Iterable[int], size: int, dtype: torch.dtype, rule: Rule) -> Tensor:
    """[times, size] in `dtype`: [cos | sin], the UNet's [sin | cos]."""
    frequencies = [FREQUENCIES[rule](k, size // 2, dtype) for k in range(size // 2)]
    angle_dtype = dtype if rule == "unet" else torch.float32
    rows = []
    for time in times:
        angles = [rounded(rounded(time, angle_dtype) * frequency, angle_dtype) for frequency in frequencies]
        cosines = [math.cos(angle) for angle in angles]
        sines = [math.sin(angle) for angle in angles]
        rows.append(sines + cosines if rule == "unet" else cosines + sines)
    return torch.tensor(rows, dtype=torch.float64).to(dtype)

"""Random draws on the generator's own device, then moved: a generator on the CPU serves models on any device."""

import torch
from torch import Tensor

__all__ = ["integers", "normal", "source", "uniform"]

Shape = tuple[int, ...]


def source(generator: torch.Generator | None, device: torch.device) -> torch.device:
    """Where to draw."""
    return device if generator is None else generator.device


def normal(
    shape: Shape, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Standard normal values."""
    return torch.randn(shape, generator=generator, device=source(generator, device), dtype=dtype).to(device)


def uniform(shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Values in [0, 1)."""
    return torch.rand(shape, generator=generator, device=source(generator, device)).to(device)


def integers(below: int, shape: Shape, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """int64 values in 0 ... below - 1."""
    return torch.randint(below, shape, generator=generator, device=source(generator, device)).to(device)

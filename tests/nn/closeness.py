"""Comparison with transformers' models."""

import torch
from torch import Tensor


def require_close(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the largest value."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def additive(visible: Tensor) -> Tensor:
    return torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]

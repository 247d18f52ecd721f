"""Exponential moving average of the trained weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """Shadow copies of a model's trainable parameters: shadow <- d * shadow + (1 - d) * weight.

    d rises as (1 + n) / (10 + n) to `decay`, so that early weights do not linger in short runs.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"ema is {decay}; a decay lies between 0 and 1, e.g. 0.999 (0 switches it off).")
        self.decay, self.updates = decay, 0
        self._weights: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.shadow = {name: p.detach().clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        shadows, weights = list(self.shadow.values()), list(self._weights.values())
        torch._foreach_lerp_(shadows, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights inside this context."""
        kept = {name: p.detach().clone() for name, p in self._weights.items()}
        self.copy_to_model()
        try:
            yield
        finally:
            _copy(kept, self._weights)

    def copy_to_model(self) -> None:
        _copy(self.shadow, self._weights)

    def load(self, shadow: Mapping[str, Tensor], updates: int) -> None:
        """Restore saved shadows."""
        _copy(shadow, self.shadow)
        self.updates = updates


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])

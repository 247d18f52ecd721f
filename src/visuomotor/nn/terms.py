"""Loss terms that models share."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from visuomotor.contract import Term

__all__ = ["by_row", "nothing"]


def nothing(weight: float, device: torch.device) -> Term:
    """A term that leaves no gradient: on gradients of zero, momentum and weight decay would go on moving weights."""
    return Term(sum=torch.zeros((), device=device), count=torch.zeros((), device=device), weight=weight)


@torch.no_grad()
def by_row(values: Float[Tensor, "N"], counts: Tensor, rows: Int64[Tensor, "N"], size: int) -> Float[Tensor, "2 B"]:
    """Values and counts added up by the sample, one of `size`, that each belongs to."""
    both = torch.stack([values, counts.to(values.dtype)])
    return both.new_zeros(2, size).index_add_(1, rows, both)

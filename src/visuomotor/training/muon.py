"""Muon for hidden matrices, AdamW for everything else, as one optimiser.

Muon (Jordan et al., 2024) takes the momentum of a matrix to its nearest semi-orthogonal matrix, so that all directions
learn at the same speed. Small models trained from nothing learn where things are in far fewer steps with it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Muon", "orthogonalised"]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MATCHED_RMS = 0.2  # of AdamW's updates, so that both kinds share one learning rate (Liu et al., 2025, section 2.2)


@torch.no_grad()
def orthogonalised(matrices: Float[Tensor, "N m n"]) -> Float[Tensor, "N m n"]:
    """U V^T of each matrix's singular value decomposition, approximately, by Newton-Schulz iteration."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """Groups with `muon=True` hold matrices only; their state is `momentum`. The other groups are AdamW's."""

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.95, **options: Any) -> None:
        super().__init__(groups, **options)
        self.momentum = momentum

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; matrices of the same shape are orthogonalised together."""
        every = self.param_groups
        try:
            self.param_groups = [group for group in every if not group.get("muon")]
            result = super().step(closure)
        finally:
            self.param_groups = every
        for group in every:
            if group.get("muon"):
                self._update(group)
        return result

    @torch.no_grad()
    def _update(self, group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[tuple(parameter.shape)].append(parameter)
        for (rows, columns), parameters in by_shape.items():
            directions = orthogonalised(torch.stack([self._direction(parameter) for parameter in parameters]))
            rate = group["lr"] * MATCHED_RMS * max(rows, columns) ** 0.5
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=rate)

    def _direction(self, parameter: Tensor) -> Tensor:
        """Nesterov momentum of the gradient."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - self.momentum)
        return parameter.grad.lerp(state["momentum"], self.momentum)

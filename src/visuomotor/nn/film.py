"""Feature-wise linear modulation (Perez et al., 2018) that begins as the identity (RT-1, Brohan et al., 2022)."""

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["FiLM"]


class FiLM(nn.Module):
    """h (1 + scale(c)) + shift(c); both linears start at zero, so that a fresh one changes nothing."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.scale_fc = nn.Linear(condition_dim, channels)
        self.shift_fc = nn.Linear(condition_dim, channels)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Float[Tensor, "B C *space"], condition: Float[Tensor, "B D"]) -> Float[Tensor, "B C *space"]:
        """`h` with its channels scaled and shifted by what `condition` says."""
        shape = (*h.shape[:2], *[1] * (h.ndim - 2))
        return h * (1 + self.scale_fc(condition).view(shape)) + self.shift_fc(condition).view(shape)

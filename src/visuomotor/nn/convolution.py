"""A causal convolution over the tokens of a decoder.

Dimensions: B batch, S tokens, R earlier tokens that a token reads, T = R + S, W width.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.nn.masks import Attention

__all__ = ["TokenConvolution"]


class TokenConvolution(nn.Module):
    """Causal depthwise convolution over neighbouring tokens with a residual (Canon layer A, Allen-Zhu 2025).

    It puts the words of a name together into one query, which a decoder trained from nothing takes long to learn.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width).uniform_(-(tokens**-0.5), tokens**-0.5))

    @property
    def before(self) -> int:
        """Earlier inputs that a token reads."""
        return self.weight.shape[0] - 1

    def forward(
        self,
        x: Float[Tensor, "B S W"],
        recent: Float[Tensor, "B R W"] | None = None,
        same: Float[Tensor, "R B S 1"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(mixed [B, S, W], inputs with those before them [B, R + S, W]); without `recent` the sequence begins.

        `same` (see `same_group`) drops neighbours of another group.
        """
        padded = F.pad(x, (0, 0, self.before, 0)) if recent is None else torch.cat([recent, x], dim=1)
        *earlier, own = self.weight.to(x.dtype)
        mixed = torch.addcmul(x, x, own)
        for shift, weight in enumerate(earlier):
            neighbour = padded[:, shift : shift + x.shape[1]]
            if same is not None:
                neighbour = neighbour * same[shift]
            mixed = torch.addcmul(mixed, neighbour, weight)
        return mixed, padded

    def latest(self, padded: Float[Tensor, "B T W"], attention: Attention) -> Float[Tensor, "B R W"]:
        """What the token behind each row's last valid one will read; zero where that is of another group."""
        # Padding repeats the position before it: the first slot at the last position is the last valid token.
        last = (attention.positions == attention.positions[:, -1:]).int().argmax(1)[:, None]
        steps = torch.arange(1 - self.before, 1, device=padded.device)
        slots = last + steps
        inputs = padded.gather(1, (slots + self.before)[..., None].expand(-1, -1, padded.shape[2]))
        if attention.groups is None:
            return inputs
        groups = attention.groups.gather(1, slots.clamp_min(0))
        return inputs * (groups == groups[:, -1:])[..., None]

    def same_group(self, groups: Int64[Tensor, "B S"], dtype: torch.dtype) -> Float[Tensor, "R B S 1"]:
        """1 where the neighbour 3, 2, 1 slots before (for a width of 4) is of the slot's own group, else 0."""
        padded = F.pad(groups, (self.before, 0), value=-1)
        length = groups.shape[1]
        same = [padded[:, shift : shift + length] == groups for shift in range(self.before)]
        return torch.stack(same)[..., None].to(dtype)

"""The one place where attention masks and positions are built.

A sequence is cut into named blocks, a table says which block sees which, validity removes padding. Everything
else follows: the mask, and the position of each token as the running count of the valid tokens that it sees.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["Attention", "Layout", "See", "causal_attention", "compile_attention", "valid_first"]


class See(IntEnum):
    """What a query sees of a block: nothing, the tokens up to its own slot, or all of it."""

    NOTHING = 0
    EARLIER = 1
    ALL = 2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Block names, and {(query block, key block): See}; a pair that is absent sees nothing."""

    blocks: tuple[str, ...]
    sees: Mapping[tuple[str, str], See]

    def __post_init__(self) -> None:
        unknown = {name for pair in self.sees for name in pair} - set(self.blocks)
        if unknown:
            raise ValueError(f"The visibility table names {sorted(unknown)}, but the blocks are {list(self.blocks)}.")

    def index(self, block: str) -> int:
        return self.blocks.index(block)

    def table(self, device: torch.device) -> Tensor:
        """uint8[blocks, blocks] of See, rows are queries; uploaded once per device."""
        return _table(
            tuple(tuple(int(self.sees.get((q, k), See.NOTHING)) for k in self.blocks) for q in self.blocks), device
        )


@dataclass(frozen=True, kw_only=True)
class Attention:
    """A compiled mask. `mask` bool[B, 1, Q, K], True = visible; None when `causal` alone says it.

    `positions` int64[B, Q]. `groups` int64[B, Q]: a token convolution mixes tokens of one group only; None: all.
    A query that sees nothing (a padded slot) has undefined output, which nothing reads.
    """

    mask: Bool[Tensor, "B 1 Q K"] | Float[Tensor, "B 1 Q K"] | None
    causal: bool
    positions: Int64[Tensor, "B Q"]
    groups: Int64[Tensor, "B Q"] | None = None

    def ready(self, dtype: torch.dtype) -> "Attention":
        """With a mask that CPUs add as it is; they would turn a boolean one into that in every layer."""
        if self.mask is None or self.mask.device.type != "cpu" or self.mask.dtype != torch.bool:
            return self
        return replace(self, mask=torch.zeros(self.mask.shape, dtype=dtype).masked_fill(~self.mask, -torch.inf))


def compile_attention(
    layout: Layout,
    labels: Int64[Tensor, "B K"],
    valid: Bool[Tensor, "B K"],
    *,
    first_query: int = 0,
) -> Attention:
    """The mask of the queries from slot `first_query` on over all K slots.

    `labels` gives the block of each slot (its index in `layout.blocks`), so a block may be scattered.
    Positions are #{j <= i visible to i} - 1: invalid slots repeat the value before them.
    """
    if labels.shape != valid.shape:
        raise ValueError(
            f"labels {tuple(labels.shape)} and valid {tuple(valid.shape)} must have the same shape [B, K]."
        )
    slots = torch.arange(labels.shape[1], device=labels.device)
    earlier = slots[None, :] <= slots[first_query:, None]
    rule = layout.table(labels.device)[labels[:, first_query:, None], labels[:, None, :]]
    # int(): a compiler traces the comparison of a tensor with an enumeration as plain False.
    visible = ((rule == int(See.ALL)) | ((rule == int(See.EARLIER)) & earlier)) & valid[:, None, :]
    positions = (visible & earlier).sum(-1) - 1
    return Attention(mask=visible[:, None], causal=False, positions=positions)


def causal_attention(valid: Bool[Tensor, "B K"]) -> Attention:
    """Plain causal attention over a sequence whose padding comes last (see `valid_first`): no mask is needed."""
    return Attention(mask=None, causal=True, positions=valid.cumsum(1) - 1)


def valid_first(valid: Bool[Tensor, "B K"]) -> Int64[Tensor, "B K"]:
    """Slot order that moves padding behind the valid tokens and keeps their order, without a host synchronisation.

    Under causal attention with counted positions this changes no valid token's output, and it makes the padding
    invisible by causality alone.
    """
    return torch.argsort(valid.logical_not().to(torch.uint8), dim=1, stable=True)


@lru_cache(maxsize=64)
def _table(rows: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8, device=device)

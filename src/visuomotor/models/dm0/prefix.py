"""What the expert reads: the encoded observation, its text, and who sees whom in it."""

from dataclasses import dataclass
from functools import lru_cache

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from visuomotor.contract import Batch
from visuomotor.nn.decoder import KVCache
from visuomotor.nn.masks import Layout, See, valid_first

__all__ = ["HIDDEN", "Prefix", "PrefixText", "layout", "turn_layout"]

HIDDEN = 1  # the block of `layout` that the chunk does not see


def layout(draws: int) -> Layout:
    """Causal prefix; each chunk is bidirectional, sees the prefix but no discrete action token, and no other chunk.

    Text that was given up when time ran out is labelled as action tokens are: the chunk does not see it.
    """
    chunks = tuple(f"chunk{i}" for i in range(draws))
    sees = {(q, k): See.EARLIER for q in ("prefix", "action_tokens") for k in ("prefix", "action_tokens")}
    for chunk in chunks:
        sees[chunk, "prefix"] = sees[chunk, chunk] = See.ALL
    return Layout(blocks=("prefix", "action_tokens", *chunks), sees=sees)


@lru_cache(maxsize=64)
def turn_layout(turns: int) -> Layout:
    """Block 0 holds the images, block k the k-th turn, which sees block 0 and itself."""
    blocks = ("images", *(f"turn{i + 1}" for i in range(turns)))
    sees = {(block, key): See.EARLIER for block in blocks for key in ("images", block)}
    return Layout(blocks=blocks, sees=sees)


@dataclass(kw_only=True)
class Prefix:
    """An encoded observation: what every denoising step reads.

    `labels` int64[B, P] (index into `layout().blocks`) and `valid` bool[B, P] describe the filled slots of `cache`.
    `last` [B, W] is the state of each row's last valid token, None when no text is to be generated.
    `progress` [B] is how far the task is (DM0-Prog), None when the expert is not told.
    `turns` int64[B, P] says who sees whom (see `turn_layout`), `turn_count` is their largest; None: the text is one.
    """

    cache: KVCache
    labels: Int64[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]
    state: Float[Tensor, "B S"]
    last: Float[Tensor, "B W"] | None = None
    progress: Float[Tensor, "B"] | None = None
    turns: Int64[Tensor, "B P"] | None = None
    turn_count: int = 0


@dataclass(frozen=True, kw_only=True)
class PrefixText:
    """The text of a batch with its padding moved to the end."""

    ids: Tensor
    valid: Tensor
    kind: Tensor
    loss: Tensor
    turn: Tensor | None

    @classmethod
    def of(cls, batch: Batch) -> "PrefixText":
        order = valid_first(batch.text_valid)
        parts = (batch.text_ids, batch.text_valid, batch.text_kind, batch.text_loss)
        ids, valid, kind, loss = (part.gather(1, order) for part in parts)
        turn = None if batch.text_turn is None else batch.text_turn.gather(1, order)
        return cls(ids=ids, valid=valid, kind=kind, loss=loss & valid, turn=turn)

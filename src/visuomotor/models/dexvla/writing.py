"""Reasoning before actions: the language model writes the answer behind an encoded prompt, greedily."""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from visuomotor.models.dexvla.vlm import read

__all__ = ["Prefix", "write"]


@dataclass(kw_only=True)
class Prefix:
    """An encoded observation and what was written behind it.

    states, valid, answer   as in `fusion.mean_states`; what is written is added behind
    cache                   keys and values, None where nothing is to be written
    after                   the position of the next token
    cond                    what the head is told, made on first use
    """

    states: Float[Tensor, "B P W"]
    valid: Bool[Tensor, "B P"]
    answer: Bool[Tensor, "B P"]
    after: Int64[Tensor, "B"]
    state: Float[Tensor, "B S"]
    embodiment: Int64[Tensor, "B"]
    cache: Any = None
    cond: Float[Tensor, "B 1 W"] | None = None


def write(
    decoder: Any, prefix: Prefix, length: int, *, end_id: int, pad_id: int, deadline: float | None = None
) -> tuple[Int64[Tensor, "B G"], Bool[Tensor, "B"]]:
    """Up to `length` greedy tokens for each row, its `end_id` included, and which rows were done before `deadline`.

    The last token of a row is never read back, so it has no state, and the answer that the head is told of ends before
    it. A row that was interrupted by `deadline` has no answer.

    Raises:
        ValueError: the prefix was encoded without a cache.
    """
    if prefix.cache is None:
        raise ValueError("This prefix was encoded without a cache; call encode(batch, text=True).")
    table = decoder.embed_tokens.weight
    running = torch.ones_like(prefix.valid[:, 0])
    before = prefix.answer.shape[1]
    tokens: list[Tensor] = []
    states, valid, answer = [prefix.states], [prefix.valid], [prefix.answer]
    while not _is_over(deadline):
        token = F.linear(states[-1][:, -1], table).argmax(-1).where(running, pad_id)
        tokens.append(token)
        running = running & (token != end_id)
        if len(tokens) == length or not bool(running.any()):
            break
        valid.append(running[:, None])
        answer.append(running[:, None])
        x, seen = decoder.embed_tokens(token[:, None]), torch.cat(valid, dim=1)
        states.append(read(decoder, x, prefix.after[None, :, None].expand(3, -1, -1), seen, prefix.cache))
        prefix.after = prefix.after + 1
    finished = torch.ones_like(running) if len(tokens) == length else ~running
    prefix.states, prefix.valid, prefix.cond = torch.cat(states, dim=1), torch.cat(valid, dim=1), None
    prefix.answer = torch.cat(answer, dim=1)
    prefix.answer[:, before:] &= finished[:, None]
    prefix.valid[:, before:] &= finished[:, None]
    ids = torch.stack(tokens, dim=1) if tokens else prefix.answer[:, :0].long()
    return ids, finished


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and perf_counter() >= deadline

"""Reasoning before actions: the language model writes the answer behind an encoded prompt, greedily."""

from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional as F

from visuomotor.backbones.base import Context
from visuomotor.backbones.qwen2_vl.towers import read
from visuomotor.backbones.writing import is_over

__all__ = ["write"]


def write(
    decoder: Any, context: Context, length: int, *, end_id: int, pad_id: int, deadline: float | None = None
) -> tuple[Int64[Tensor, "B G"], Bool[Tensor, "B"]]:
    """Up to `length` greedy tokens for each row, its `end_id` included, and which rows were done before `deadline`.

    The last token of a row is never read back, so it has no state, and the answer that heads see ends before it. A row
    that was interrupted by `deadline` has no answer. Nothing can be written behind it.

    Raises:
        ValueError: the context was encoded without a cache, or has its answer.
    """
    last, after = context.last, context.positions
    if context.cache is None or last is None or after is None or context.answer is None:
        raise ValueError("This context has an answer, or was encoded without a cache: call encode(batch, text=True).")
    running = torch.ones_like(context.valid[:, 0])
    before = context.valid.shape[1]
    # States at one slot, or at all of them, to which those of the answer are added.
    states = {layer: [t] for layer, t in context.states.items() if t.shape[1] == before}
    tokens: list[Tensor] = []
    valid, answer = [context.valid], [context.answer]
    while not is_over(deadline):
        token = F.linear(last, decoder.embed_tokens.weight).argmax(-1).where(running, pad_id)
        tokens.append(token)
        running = running & (token != end_id)
        if len(tokens) == length or not bool(running.any()):
            break
        valid.append(running[:, None])
        answer.append(running[:, None])
        x, seen = decoder.embed_tokens(token[:, None]), torch.cat(valid, dim=1)
        positions = after[None, :, None].expand(3, -1, -1)
        newest, layers = read(decoder, x, positions, seen, context.cache, tuple(states))
        for layer, t in layers.items():
            states[layer].append(t)
        last, after = newest[:, -1], after + 1
    finished = torch.ones_like(running) if len(tokens) == length else ~running
    context.states |= {layer: torch.cat(parts, dim=1) for layer, parts in states.items()}
    context.valid, context.answer = torch.cat(valid, dim=1), torch.cat(answer, dim=1)
    context.answer[:, before:] &= finished[:, None]
    context.valid[:, before:] &= finished[:, None]
    context.labels = F.pad(context.labels, (0, context.valid.shape[1] - before))
    context.cache = context.last = None
    ids = torch.stack(tokens, dim=1) if tokens else context.labels[:, :0]
    return ids, finished

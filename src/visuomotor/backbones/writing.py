"""Text before actions: a language model writes lines behind an encoded prefix, into the same cache."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from time import perf_counter

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from visuomotor.backbones.base import HIDDEN, Context
from visuomotor.nn.decoder import Decoder
from visuomotor.nn.masks import Layout, See, compile_attention
from visuomotor.text.grammar import Line

__all__ = ["WordIds", "Writer", "is_over", "turn_layout"]


@dataclass(frozen=True, kw_only=True)
class WordIds:
    """Token ids with a meaning of their own.

    newline, pad   the token that ends a written line, and the one that fills behind it
    actions        (first, number) of the discrete action tokens, which heads never see; None: there are none
    """

    newline: int = 2
    pad: int = 0
    actions: tuple[int, int] | None = None


@lru_cache(maxsize=64)
def turn_layout(turns: int) -> Layout:
    """Block 0 holds the images, block k the k-th turn, which sees block 0 and itself."""
    blocks = ("images", *(f"turn{i + 1}" for i in range(turns)))
    sees = {(block, key): See.EARLIER for block in blocks for key in ("images", block)}
    return Layout(blocks=blocks, sees=sees)


class Writer:
    """Greedy decoding of `llm` behind `prefix`, whose cache, labels, turns and last state move on with every token."""

    def __init__(
        self,
        words: WordIds,
        llm: Decoder,
        embed: Callable[[Tensor], Tensor],
        logits: Callable[[Tensor], Tensor],
        prefix: Context,
    ) -> None:
        self.words, self.llm, self.embed, self.logits, self.prefix = words, llm, embed, logits, prefix

    def write(
        self, lines: Sequence[Line], deadline: float | None = None
    ) -> tuple[tuple[Int64[Tensor, "B G"], ...], Bool[Tensor, "B N"]]:
        """See `Backbone.write`."""
        prefix = self.prefix
        written, finished = [], []
        for i, line in enumerate(lines):
            before = prefix.valid.sum(1) - (len(line.header) if line.given else 0)
            ids, running = self._write_line(line, deadline)
            late = running & is_over(deadline)
            hidden = late[:, None] & (prefix.valid.cumsum(1) > before[:, None])
            prefix.labels = prefix.labels.masked_fill(hidden, HIDDEN)
            if i + 1 < len(lines) and bool((running & ~late).any()):
                self._advance(torch.full_like(before, self.words.newline)[:, None], running & ~late, line.turn)
            written.append(ids)
            finished.append(~late)
        return tuple(written), torch.stack(finished, dim=1)

    def go_on(
        self, line: Line, stop: int, deadline: float | None = None
    ) -> tuple[Int64[Tensor, "B G"], Bool[Tensor, "B"]]:
        """Up to `line.length` greedy tokens, and the rows that have not stopped; the line's header is not written."""
        prefix, grammar = self.prefix, line.grammar
        running = torch.ones_like(prefix.valid[:, 0])
        where = torch.zeros_like(prefix.labels[:, 0])
        prefix.cache.reserve(line.length)
        tokens: list[Tensor] = []
        while len(tokens) < line.length and bool(running.any()) and not is_over(deadline):
            if prefix.last is None:
                raise ValueError("This context was read without text states; call encode(batch, text=True).")
            logits = self.logits(prefix.last)
            if grammar is not None:
                logits = grammar.constrain(logits, where, line.length - len(tokens))
            token = logits.argmax(-1).where(running, torch.full_like(where, self.words.pad))
            if grammar is not None:
                where = grammar.advance(where, token)
            tokens.append(token)
            self._advance(token[:, None], running, line.turn)
            running = running & (token != stop)
        return torch.stack(tokens, dim=1) if tokens else prefix.labels[:, :0], running

    def _write_line(self, line: Line, deadline: float | None) -> tuple[Tensor, Tensor]:
        everyone = torch.ones_like(self.prefix.valid[:, 0])
        if is_over(deadline):
            return self.prefix.labels[:, :0], everyone
        if not line.given:
            if line.turn:  # the token convolution does not mix a turn with what stands before it
                self.prefix.cache.forget()
            self._advance(line.header.expand(len(everyone), -1), everyone, line.turn)
        return self.go_on(line, self.words.newline, deadline)

    def _advance(self, ids: Int64[Tensor, "B G"], rows: Bool[Tensor, "B"], turn: int) -> None:
        """Put `ids` behind the prefix's text; in rows that are not chosen they are padding."""
        prefix, cache = self.prefix, self.prefix.cache
        turns = torch.zeros_like(prefix.labels) if prefix.turns is None else prefix.turns
        prefix.labels = torch.cat([prefix.labels, self._is_action(ids).long()], dim=1)
        prefix.valid = torch.cat([prefix.valid, rows[:, None].expand_as(ids)], dim=1)
        prefix.turns = torch.cat([turns, torch.full_like(ids, turn)], dim=1)
        prefix.turn_count = max(prefix.turn_count, turn)
        attention = compile_attention(
            turn_layout(prefix.turn_count), prefix.turns, prefix.valid, first_query=cache.length
        )
        cache.reserve(ids.shape[1])
        recent = list(cache.recent)
        states, _ = self.llm(self.embed(ids), attention, cache=cache)
        cache.keep_recent(recent, rows)
        cache.length += ids.shape[1]
        prefix.last = states[:, -1]

    def _is_action(self, token: Tensor) -> Tensor:
        if self.words.actions is None:
            return torch.zeros_like(token, dtype=torch.bool)
        start, count = self.words.actions
        return (token >= start) & (token < start + count)


def is_over(deadline: float | None) -> bool:
    """Whether the time is up, on the clock of time.perf_counter."""
    return deadline is not None and perf_counter() >= deadline

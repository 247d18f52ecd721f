"""Deterministic automata over token ids: which token may follow, as tables that mask a whole batch of logits at once.

Dimensions: B batch, V tokens, S states, C classes of tokens that the automaton treats alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Automaton", "Grammar"]

NEVER = 1 << 30
Ids = Sequence[int] | np.ndarray


@dataclass(frozen=True, eq=False)
class Grammar:
    """The texts that are allowed, ended by a token of their own. State 0 is the beginning, the last state a dead end.

    token_class int64[V]; next_state int64[S, C]; distance int64[S]: tokens until the shortest end.
    """

    token_class: Int64[Tensor, "V"]
    next_state: Int64[Tensor, "S C"]
    distance: Int64[Tensor, "S"]

    @property
    def shortest(self) -> int:
        """Tokens of the shortest text, its end included."""
        return int(self.distance[0])

    def constrain(self, logits: Float[Tensor, "B V"], state: Int64[Tensor, "B"], room: int) -> Tensor:
        """Logits with minus infinity at every token after which the text could not end within `room` tokens."""
        fits = self.distance[self.next_state[state]] < room
        allowed = F.pad(fits[:, self.token_class], (0, logits.shape[1] - len(self.token_class)))
        return logits.masked_fill(~allowed, -torch.inf)

    def advance(self, state: Int64[Tensor, "B"], token: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]:
        """The state after `token`; beyond an end it means nothing."""
        return self.next_state[state, self.token_class[token]]

    def accepts(self, ids: Ids) -> bool:
        """Whether `ids` are one whole allowed text."""
        state = torch.zeros(1, dtype=torch.int64)
        for token in ids:
            state = self.advance(state, torch.tensor([int(token)]))
        return int(self.distance[state]) == 0

    def to(self, device: torch.device | str) -> "Grammar":
        return Grammar(*(t.to(device) for t in (self.token_class, self.next_state, self.distance)))


class Automaton:
    """Builds a grammar from its end to its beginning: each state is made of the states that follow it.

    `END` is where every text ends. Equal states are one state, so that numbers with common endings stay small.
    """

    END = 0

    def __init__(self) -> None:
        self._edges: list[Mapping[int, int]] = [{}]
        self._known: dict[frozenset[tuple[int, int]], int] = {}

    def state(self, edges: Mapping[int, int]) -> int:
        """The state that goes {token: next state}."""
        key = frozenset(edges.items())
        if key not in self._known:
            self._known[key] = self.open()
            self._edges[self._known[key]] = edges
        return self._known[key]

    def edges(self, state: int) -> Mapping[int, int]:
        """{token: next state} of a state."""
        return self._edges[state]

    def open(self) -> int:
        """A state to come back to, whose edges `close` gives; nothing may be copied from it before."""
        self._edges.append({})
        return len(self._edges) - 1

    def close(self, state: int, like: int) -> None:
        """Let an open state go on as `like` does."""
        self._edges[state] = self._edges[like]

    def words(self, sequences: Iterable[Ids], follow: int) -> int:
        """The state from which each of `sequences` leads to what `follow` leads to."""
        rests: dict[int, list[Ids]] = {}
        ends = False
        for sequence in sequences:
            if len(sequence):
                rests.setdefault(int(sequence[0]), []).append(sequence[1:])
            else:
                ends = True
        if not rests:
            return follow
        more = self.state({token: self.words(rest, follow) for token, rest in rests.items()})
        return self.either(more, follow) if ends else more

    def either(self, a: int, b: int) -> int:
        """The state that goes on as `a` or as `b` does; where both take a token, what follows is joined, too."""
        if a == b:
            return a
        edges = dict(self._edges[a])
        for token, target in self._edges[b].items():
            edges[token] = self.either(edges[token], target) if token in edges else target
        return self.state(edges)

    def grammar(self, start: int, vocab_size: int) -> Grammar:
        """The tables of what can be reached from `start`."""
        order, queue = {start: 0}, [start]
        for state in queue:
            for target in self._edges[state].values():
                if target not in order:
                    order[target] = len(order)
                    queue.append(target)
        uses: dict[int, list[tuple[int, int]]] = {}
        for state, index in order.items():
            for token, target in self._edges[state].items():
                uses.setdefault(token, []).append((index, order[target]))
        classes: dict[tuple[tuple[int, int], ...], int] = {(): 0}
        token_class = np.zeros(vocab_size, dtype=np.int64)
        for token, edges in uses.items():
            token_class[token] = classes.setdefault(tuple(edges), len(classes))
        next_state = np.full((len(order) + 1, len(classes)), len(order), dtype=np.int64)
        for edges, index in classes.items():
            for state, target in edges:
                next_state[state, index] = target
        distance = _distances(next_state, order[self.END])
        return Grammar(torch.from_numpy(token_class), torch.from_numpy(next_state), torch.from_numpy(distance))


def _distances(next_state: np.ndarray, end: int) -> np.ndarray:
    """Tokens from each state to `end`, NEVER where no way leads there."""
    distance = np.full(len(next_state), NEVER, dtype=np.int64)
    distance[end] = 0
    while True:
        closer = np.minimum(distance, distance[next_state].min(axis=1) + 1)
        if (closer == distance).all():
            return distance
        distance = closer

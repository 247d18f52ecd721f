"""Draws of the loader: the source of each row by a fixed rule, and random draws of its own for each row."""

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

__all__ = ["RowDraws", "Shares"]

_Tree = int | tuple["_Tree", "_Tree", float]  # a source, or two branches and the share of the first


class Shares:
    """Division of an endless row of places among sources, in proportion to their weights at every point.

    The places are divided in two along a Huffman tree: of the first n places of a node, round(n * share) go to its
    first branch. So any place is found without those before it, and in any run of places a source has its share to
    within one place for two sources, three for more.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        # The number in the middle breaks ties, so that trees are never compared.
        heap: list[tuple[float, int, Any]] = [(float(weight), i, i) for i, weight in enumerate(weights)]
        heapq.heapify(heap)
        while len(heap) > 1:
            light, number, first = heapq.heappop(heap)
            heavy, _, second = heapq.heappop(heap)
            heapq.heappush(heap, (light + heavy, number, (first, second, light / (light + heavy))))
        self._tree: _Tree = heap[0][2]

    def at(self, places: Int64[np.ndarray, "n"]) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
        """(source of each place, number of places before it that the source has)."""
        sources = np.zeros_like(places)
        return sources, _divide(self._tree, places, sources, np.arange(len(places)))


def _divide(tree: _Tree, places: np.ndarray, sources: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Write the source of each place into `sources[slots]`; returns the places' numbers within their source."""
    if isinstance(tree, int):
        sources[slots] = tree
        return places
    first, second, share = tree
    before, after = (np.floor(n * share + 0.5).astype(np.int64) for n in (places, places + 1))
    goes_first = after > before
    numbers = np.empty_like(places)
    numbers[goes_first] = _divide(first, before[goes_first], sources, slots[goes_first])
    rest = ~goes_first
    numbers[rest] = _divide(second, (places - before)[rest], sources, slots[rest])
    return numbers


class RowDraws:
    """Random draws of the rows `first` to `last` - 1 of a batch, each a function of (seed, batch, row) alone.

    frame, goal: float64[last - first] in [0, 1).
    """

    def __init__(self, seed: int, batch: int, first: int, last: int) -> None:
        words = np.random.PCG64((seed, batch)).random_raw(6 * last).reshape(-1, 6)[first:]
        self.frame, self.goal = (words[:, :2] >> np.uint64(11)).T / float(1 << 53)
        self._seeds: list[list[int]] = words[:, 2:].tolist()
        self._bits = np.random.PCG64(0)
        self._generator = np.random.Generator(self._bits)

    def generator(self, row: int) -> np.random.Generator:
        """The generator of a row, counted from `first`; it ends that of the row before.

        One object serves all rows: making one for each would cost twice as much, and the garbage collector's time.
        """
        high, low, step, odd = self._seeds[row]
        self._bits.state = {
            "bit_generator": "PCG64",
            "state": {"state": high << 64 | low, "inc": step << 64 | odd | 1},  # increments of PCG64 are odd
            "has_uint32": 0,
            "uinteger": 0,
        }
        return self._generator

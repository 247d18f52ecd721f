"""Loss terms by source of the mixture, added up on the device, so that no step waits for the host."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from visuomotor.contract import Term

__all__ = ["SourceLosses"]


class SourceLosses:
    """Sums and counts of every term by source, between two calls of `means`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._sums: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Term], source: Tensor) -> None:
        """Add a batch's terms; `source` int64[B] is its samples' place in `names`."""
        for name, term in terms.items():
            if term.rows is not None and len(self._names) > 1:
                if name not in self._sums:
                    self._sums[name] = torch.zeros(2, len(self._names), device=term.rows.device)
                self._sums[name].index_add_(1, source, term.rows.float())

    def means(self) -> dict[str, dict[str, float]]:
        """{source: {term: mean}} of what was counted, in one transfer, and begin anew; empty for a single source."""
        if not self._sums:
            return {}
        values = torch.stack(list(self._sums.values())).tolist()
        found: dict[str, dict[str, float]] = {}
        for term, (sums, counts) in zip(self._sums, values, strict=True):
            for name, total, count in zip(self._names, sums, counts, strict=True):
                if count:
                    found.setdefault(name, {})[term] = total / count
        self._sums.clear()
        return found

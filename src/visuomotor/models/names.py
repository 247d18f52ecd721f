"""Published tensor names and a model's own, both ways, by a table of prefixes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["NameTable"]


class NameTable:
    """`pairs`: {own prefix: published prefix}; of several that fit a name, the longest counts."""

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self._published = dict(sorted(pairs.items(), key=lambda pair: -len(pair[0])))
        self._own = {theirs: own for own, theirs in sorted(pairs.items(), key=lambda pair: -len(pair[1]))}

    def published(self, name: str) -> str:
        """The published name of a model's tensor, the same name where the table says nothing."""
        return _renamed(name, self._published)

    def own(self, name: str) -> str:
        """The model's name of a published tensor, the same name where the table says nothing."""
        return _renamed(name, self._own)

    def own_names(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The same values under the model's names."""
        return {self.own(name): value for name, value in tensors.items()}

    def state(self, model: nn.Module) -> dict[str, Tensor]:
        """The model's parameters and buffers under their published names; gradients pass."""
        return {self.published(name): tensor for name, tensor in model.state_dict(keep_vars=True).items()}


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for prefix, other in table.items():
        if name.startswith(prefix):
            return other + name.removeprefix(prefix)
    return name

"""Robots with layers of their own on a shared trunk: rows of a batch by robot, and names of their tensors.

In a head for several robots these layers lie below `embodiments.NAME.`, in a head for one they have plain names.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

__all__ = ["Grouping", "embodiment_state", "group_rows", "plain_state"]

OWN = ("x_embedder.", "combine.", "final_layer.linear.")
STEM = "embodiments."


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """`counts`: (robot, rows) after sorting by robot. `order` sorts rows, `back` undoes it; None: nothing to sort."""

    counts: tuple[tuple[int, int], ...]
    order: Int64[Tensor, "B"] | None = None
    back: Int64[Tensor, "B"] | None = None

    def sort(self, x: Tensor) -> Tensor:
        return x if self.order is None else x[self.order]

    def unsort(self, x: Tensor) -> Tensor:
        return x if self.back is None else x[self.back]

    def split(self, x: Tensor) -> list[tuple[int, Tensor]]:
        """(robot, its rows) of sorted rows."""
        parts = x.split([rows for _, rows in self.counts])
        return [(robot, part) for (robot, _), part in zip(self.counts, parts, strict=True)]


def group_rows(embodiment: Int64[Tensor, "B"] | None, robots: int, rows: int) -> Grouping:
    """Group the rows of a batch; a single robot's layers serve all rows, whatever `embodiment` says.

    Raises:
        ValueError: several robots and no embodiment, or an embodiment that is none of them.
    """
    if robots == 1:
        return Grouping(counts=((0, rows),))
    if embodiment is None or embodiment.shape != (rows,):
        given = None if embodiment is None else tuple(embodiment.shape)
        raise ValueError(
            f"This head has layers for {robots} robots; say which of them each of {rows} rows is, not {given}."
        )
    counts = Counter(embodiment.tolist())
    if any(not 0 <= robot < robots for robot in counts):
        raise ValueError(f"embodiment holds {sorted(counts)}, but this head has robots 0 to {robots - 1}.")
    if len(counts) == 1:
        return Grouping(counts=tuple(counts.items()))
    order = torch.sort(embodiment, stable=True).indices
    return Grouping(counts=tuple(sorted(counts.items())), order=order, back=order.argsort())


def plain_state(state: Mapping[str, Tensor], embodiment: str) -> dict[str, Tensor]:
    """Trunk and one robot's layers of a head for several, under the names of a head for one.

    Raises:
        ValueError: the head has no such robot.
    """
    stem = f"{STEM}{embodiment}."
    if not any(name.startswith(stem) for name in state):
        known = sorted({name.split(".")[1] for name in state if name.startswith(STEM)})
        raise ValueError(f"There is no embodiment {embodiment!r} in this state. Known: {', '.join(known) or 'none'}.")
    return {
        name.removeprefix(stem): t for name, t in state.items() if name.startswith(stem) or not name.startswith(STEM)
    }


def embodiment_state(state: Mapping[str, Tensor], embodiment: str) -> dict[str, Tensor]:
    """A head for one robot under the names that a head for several has for trunk and that robot."""
    return {f"{STEM}{embodiment}.{name}" if name.startswith(OWN) else name: t for name, t in state.items()}

"""What became of every tensor when weights were put into a model."""

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["TensorReport"]

SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class TensorReport:
    """Names of tensors: copied; the model's that nothing filled; the file's that the model has no place for; the
    file's that are left out on purpose; and (name, file's shape, model's shape) of those that do not fit."""

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether file and model agree but for what is left out on purpose."""
        return not (self.missing or self.unexpected or self.mismatched)

    def summary(self) -> str:
        """One line: how many of each kind, and the first names."""
        kinds = [("missing", self.missing), ("unexpected", self.unexpected), ("ignored", self.ignored)]
        text = [f"{len(self.loaded)} tensors loaded"]
        text += [f"{len(names)} {kind} ({_few(names)})" for kind, names in kinds if names]
        if self.mismatched:
            shapes = [f"{name}: {list(found)} against {list(expected)}" for name, found, expected in self.mismatched]
            text.append(f"{len(shapes)} mismatched ({_few(shapes)})")
        return ", ".join(text)

    __str__ = summary


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")

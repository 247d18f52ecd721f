"""Options of a world: for its environment, for its scenarios, or for both."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from visuomotor.spelling import did_you_mean


def split_options(
    make: Callable[..., Any], scenarios: Callable[..., Any], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`options` as (for `make`, for `scenarios`); an option that both name goes to both.

    An option that neither names goes to those that take any; a ValueError says when there is none.
    """
    named, takes_any = [], []
    for function in (make, scenarios):
        parameters = inspect.signature(function).parameters.values()
        named.append({p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)})
        takes_any.append(any(p.kind is p.VAR_KEYWORD for p in parameters))
    split: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, value in options.items():
        takers = [name in names for names in named]
        if not any(takers):
            takers = takes_any
        if not any(takers):
            known = sorted((named[0] | named[1]) - {"split", "count", "seed"})
            raise ValueError(f"The world has no option {name!r}.{did_you_mean(name, known)} It has {', '.join(known)}.")
        for part, taken in zip(split, takers, strict=True):
            if taken:
                part[name] = value
    return split


def named_options(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `options` that the function names."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in names}

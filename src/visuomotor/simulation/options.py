"""Which of a world's options are for its environment and which for its scenarios."""

import inspect
from typing import Any

from visuomotor.simulation.interface import World
from visuomotor.spelling import did_you_mean


def split_options(world: World, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`options` as (for `world.make`, for `world.scenarios`); an option that both know goes to both.

    An option that neither names goes to those that take any; a ValueError says when there is none.
    """
    named, takes_any = [], []
    for function in (world.make, world.scenarios):
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

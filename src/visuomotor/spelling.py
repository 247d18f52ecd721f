"""What somebody may have meant who wrote an unknown name."""

import difflib
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

__all__ = ["did_you_mean", "require_choices"]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ " Did you mean 'NAME'?", to put behind a sentence; "" where nothing known is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def require_choices(config: Any) -> None:
    """ValueError where a field of a dataclass, annotated as Literal, has another value; says the nearest."""
    for name, hint in get_type_hints(type(config)).items():
        value, choices = getattr(config, name), get_args(hint)
        if get_origin(hint) is Literal and value not in choices:
            known = [str(choice) for choice in choices]
            raise ValueError(
                f"{type(config).__name__}.{name} is {value!r}.{did_you_mean(str(value), known)} Known: "
                f"{', '.join(known)}."
            )

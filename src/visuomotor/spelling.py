"""What somebody may have meant who wrote an unknown name."""

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ " Did you mean 'NAME'?", to put behind a sentence; "" where nothing known is near."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""

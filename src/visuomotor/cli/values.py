"""What stands on the command line, as values."""

from pathlib import Path
from typing import Any, TypeVar

from visuomotor.codec import decode

Name = TypeVar("Name", str, Path)


def typed(text: str) -> Any:
    """'3' -> 3, 'true' -> True, '[1, 2]' -> list; anything that is not JSON stays text."""
    return decode(Any, text, text=True)


def newest(name: Name) -> Name:
    """The newest checkpoint in the place of a training's folder; a checkpoint's folder, or an address, as it is."""
    if not (Path(name) / "last").is_file():
        return name
    from visuomotor.training.checkpoint import last_checkpoint

    return type(name)(last_checkpoint(Path(name)))

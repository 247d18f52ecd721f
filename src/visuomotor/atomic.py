"""Folders that are there whole or not at all."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_folder"]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its place when the block ends, and is removed when it fails."""
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if not folder.exists():
            temporary.rename(folder)
            return
        aside = temporary.with_suffix(".old")
        folder.rename(aside)
        temporary.rename(folder)
        shutil.rmtree(aside)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

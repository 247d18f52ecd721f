"""Which code is running: installed packages, and the commit where it runs from a checkout."""

import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

__all__ = ["commit", "installed"]


def installed(packages: Iterable[str]) -> dict[str, str]:
    """{package: version} of those that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Git commit of the library's checkout, with "+changes" when tracked files differ from it; else None.

    Only where this file itself is tracked: an installed package may lie inside somebody else's checkout.
    """
    here = Path(__file__)
    try:
        _git(here.parent, "ls-files", "--error-unmatch", here.name)
        head = _git(here.parent, "rev-parse", "HEAD")
        return head + ("+changes" if _git(here.parent, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

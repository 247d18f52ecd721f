"""Findings about videos whose frames do not fit their rows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Severity = Literal["error", "warning", "note"]
RESTORE = "Correct from_timestamp, to_timestamp and file_index in meta/episodes, or restore them from the original."


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """One finding about a video and its rows.

    Severity error: rows have no picture. warning: all rows are read, but something should be corrected or checked.
    note: all rows are read, and nothing needs to be done. `kind` names the fault; `message` describes it by the first
    of `episodes` and of `files` videos.
    """

    severity: Severity
    kind: str
    path: Path
    episodes: tuple[int, ...]
    message: str
    remedy: str
    files: int = 1

    def __str__(self) -> str:
        return f"{self.path} ({listing(self.episodes)}): {self.summary} {self.remedy}"

    @property
    def summary(self) -> str:
        """Message, and the number of videos that share the fault."""
        return self.message + (
            f" The same fault is in {counted(self.files - 1, 'more video')}." if self.files > 1 else ""
        )


def merge(mismatches: Sequence[Mismatch]) -> list[Mismatch]:
    """One finding for each severity and kind, with the episodes of all; the first video stands for the others."""
    groups: dict[tuple[str, str], list[Mismatch]] = {}
    for mismatch in mismatches:
        groups.setdefault((mismatch.severity, mismatch.kind), []).append(mismatch)
    return [
        replace(
            group[0],
            episodes=tuple(episode for mismatch in group for episode in mismatch.episodes),
            files=len({mismatch.path for mismatch in group}),
        )
        for group in groups.values()
    ]


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listing(episodes: Sequence[int]) -> str:
    """`episode 3`, or `episodes 3, 4, 7, ...`."""
    shown = ", ".join(map(str, episodes[:8])) + (", ..." if len(episodes) > 8 else "")
    return f"episode{'s' if len(episodes) > 1 else ''} {shown}"

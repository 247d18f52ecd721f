"""A study as one Markdown file: its tables, what they can tell, the pictures of its arms."""

from collections.abc import Sequence
from pathlib import Path

from visuomotor.locks import FolderLock
from visuomotor.studies.engine import NUMBERS, Study, StudyPlan
from visuomotor.studies.summary import Summary

__all__ = ["REPORT_FILE", "write_report"]

REPORT_FILE = "study.md"


def write_report(study: Study, plan: StudyPlan, summaries: Sequence[Summary]) -> Path:
    """Write `plan.out`/study.md, whose links are relative to it, and return its path."""
    length = f"{plan.minutes:g} minutes of training"
    if study.base:
        length += f" from one model of {plan.base_minutes:g} minutes"
    lines = [f"# {study.name}", "", study.question, "", f"Each arm and seed: {length}, {plan.episodes} episodes."]
    for summary in summaries:
        columns, rows = summary.table()
        lines += ["", f"## {summary.condition}", "", _row(columns), _row(["---"] * len(columns)), *map(_row, rows)]
        lines += ["", told(summary, plan)]
    lines += ["", "## Arms"]
    for arm in summaries[0].arms:
        lines += ["", f"**{arm.name}**: {arm.adds}. Checkpoints: {', '.join(arm.checkpoints)}."]
        pictures = sorted((plan.out / arm.name).glob(f"seed-*/{NUMBERS.parent}/*.png"))
        for path in (picture.relative_to(plan.out).as_posix() for picture in pictures):
            lines += ["", f"![{path}]({path})"]
    path = plan.out / REPORT_FILE
    with FolderLock(plan.out, nested=True):
        path.write_text("\n".join(lines) + "\n")
    return path


def told(summary: Summary, plan: StudyPlan) -> str:
    """How small a difference so many rollouts show."""
    shown = f"{plan.seeds * plan.episodes} rollouts an arm show differences of {100 * summary.detectable:.0f} points"
    return f"{shown} with 80 % power, as if they were independent."


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

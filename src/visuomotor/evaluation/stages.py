"""Success by stage of a task, as benchmarks of long tasks report it: how many episodes came how far."""

from collections.abc import Iterable

from visuomotor.evaluation.results import EpisodeRecord
from visuomotor.evaluation.statistics import Rate

__all__ = ["by_stage", "stage_table"]


def by_stage(records: Iterable[EpisodeRecord]) -> dict[str, dict[str, Rate]]:
    """{task: {stage, in order: share of the episodes that came so far}}, for worlds that tell stages.

    An episode came so far when that stage, or one behind it, was complete at some time: so shares never rise.
    """
    reached: dict[str, list[list[bool]]] = {}
    names: dict[str, list[str]] = {}
    for record in records:
        if record.stages:
            whole = [most >= 1 for _, most in record.stages]
            names[record.task] = [name for name, _ in record.stages]
            reached.setdefault(record.task, []).append([any(whole[k:]) for k in range(len(whole))])
    return {
        task: {
            name: Rate(sum(column), len(column))
            for name, column in zip(names[task], zip(*rows, strict=True), strict=True)
        }
        for task, rows in sorted(reached.items())
    }


def stage_table(found: dict[str, dict[str, Rate]]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text, a row for each stage."""
    rows = [[task, stage, str(rate)] for task, stages in found.items() for stage, rate in stages.items()]
    return ["task", "stage", "came so far"], rows

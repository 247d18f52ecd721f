"""Scores of generated answers by kind of question: exact match, and for boxes the overlap with the true one."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from visuomotor.evaluation.statistics import Rate

__all__ = ["Answer", "KindScore", "box_of", "intersection_over_union", "score"]

Box = tuple[int, ...]
COLUMNS = ("kind", "exact match", "mean IoU", "IoU > 0.5")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One question with the true and the given answer."""

    kind: str
    question: str
    expected: str
    given: str

    @property
    def exact(self) -> bool:
        """Equal up to case and spaces."""
        return _plain(self.given) == _plain(self.expected)

    @property
    def iou(self) -> float | None:
        """Overlap of the boxes at the answers' ends; None where the true answer has none, 0 where only it has one."""
        true, given = box_of(self.expected), box_of(self.given)
        if true is None:
            return None
        return 0.0 if given is None else intersection_over_union(true, given)


@dataclass(frozen=True, kw_only=True)
class KindScore:
    """Of all answers of a kind (or of all, "all"); the overlaps are None for kinds without boxes."""

    kind: str
    exact: Rate
    mean_iou: float | None
    over_half: Rate | None

    def row(self) -> tuple[str, ...]:
        """Cells of `COLUMNS`."""
        iou = "" if self.mean_iou is None else f"{self.mean_iou:.3f}"
        return self.kind, str(self.exact), iou, "" if self.over_half is None else str(self.over_half)

    def to_json(self) -> dict[str, Any]:
        def rate(value: Rate) -> dict[str, Any]:
            return {"value": value.value, "wilson_95": asdict(value.interval), **asdict(value)}

        over = None if self.over_half is None else rate(self.over_half)
        return {"kind": self.kind, "exact": rate(self.exact), "mean_iou": self.mean_iou, "iou_over_half": over}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "KindScore":
        def rate(value: dict[str, Any]) -> Rate:
            return Rate(value["successes"], value["n"])

        over = data["iou_over_half"]
        return cls(
            kind=data["kind"],
            exact=rate(data["exact"]),
            mean_iou=data["mean_iou"],
            over_half=None if over is None else rate(over),
        )


def score(answers: Sequence[Answer]) -> list[KindScore]:
    """By kind in alphabetical order; "all" first where there are several."""
    groups = {kind: [a for a in answers if a.kind == kind] for kind in sorted({a.kind for a in answers})}
    whole = {"all": list(answers)} if len(groups) > 1 else {}
    return [_score(kind, group) for kind, group in {**whole, **groups}.items()]


def box_of(text: str) -> Box | None:
    """The last four numbers of an answer that ends in a box, x1 y1 x2 y2."""
    found = re.search(r"(?:^|\D)(\d+) (\d+) (\d+) (\d+)\s*$", text)
    return None if found is None else tuple(int(n) for n in found.groups())


def intersection_over_union(a: Box, b: Box) -> float:
    """0 to 1; equal boxes overlap wholly, however small they are."""
    if a == b:
        return 1.0
    width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = [max(0, c[2] - c[0]) * max(0, c[3] - c[1]) for c in (a, b)]
    shared = width * height
    return shared / (sum(areas) - shared) if shared else 0.0


def _score(kind: str, answers: Sequence[Answer]) -> KindScore:
    overlaps = [a.iou for a in answers if a.iou is not None] if kind != "all" else []
    return KindScore(
        kind=kind,
        exact=Rate(sum(a.exact for a in answers), len(answers)),
        mean_iou=sum(overlaps) / len(overlaps) if overlaps else None,
        over_half=Rate(sum(o > 0.5 for o in overlaps), len(overlaps)) if overlaps else None,
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()

"""The text of a robot sample: prompt, then scaffold levels, each on its own line (DM0's spatial scaffolding).

    put the red block into the left bowl
    Subtask: reach for the red block
    Box: red block 412 380 455 431
    Trajectory: main gripper: (500,300) (492,310)
    Action:<action_127><action_90>...

This is the default order. A line is absent when its level is dropped. What a level says and the newline that ends it
are targets of the text loss. The header ("Subtask:") is not: at inference the caller decides which levels are thought
and forces the header. Pieces are encoded separately, so training and inference see the same tokens.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from visuomotor.contract import TextKind

__all__ = [
    "DM0_SYSTEM", "FIXED_TEXT", "HEADERS", "KINDS", "LEVELS", "LEVEL_NEEDS", "MAX_POINTS", "Piece", "Pieces", "Words",
    "box_content", "parse_boxes", "parse_levels", "parse_points", "spoken", "text_of", "trajectory_content", "turns_of",
]  # fmt: skip

Words = Sequence[str | int] | str  # text, or text and coordinates apart
LEVELS = ("subtask", "box", "trajectory", "action")
HEADERS = {"subtask": "Subtask:", "box": "Box:", "trajectory": "Trajectory:", "action": "Action:"}
KINDS = {
    "subtask": TextKind.SUBTASK,
    "box": TextKind.BOX,
    "trajectory": TextKind.TRAJECTORY,
    "action": TextKind.ACTION,
}
LEVEL_NEEDS = {"subtask": "subtask", "box": "boxes", "trajectory": "point"}  # level -> annotation it is made of
MAX_POINTS = 25
BOX, POINT = re.compile(r"(\D.*?) (\d+) (\d+) (\d+) (\d+)"), re.compile(r"\((\d+),(\d+)\)")
DM0_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
# Every vocabulary that is trained here knows these, so that a checkpoint's words serve other layouts, too.
FIXED_TEXT = (*HEADERS.values(), "main gripper:", "yes", "no", "nothing", DM0_SYSTEM, "USER: ", "ASSISTANT: ")


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one kind. `target`: the text loss predicts them; `turn` as in contract.Batch."""

    ids: np.ndarray
    kind: int
    target: bool
    turn: int = 0


Pieces = list[Piece]


def spoken(content: Words) -> str:
    """Words and coordinates as one text."""
    return content if isinstance(content, str) else "".join(c if isinstance(c, str) else f" {c}" for c in content)


def box_content(boxes: Mapping[str, tuple[int, int, int, int]], mentioned: str) -> list[str | int]:
    """Boxes of the objects that `mentioned` names, in its order; empty when it names none."""
    found = sorted((mentioned.find(name), name) for name in boxes if name in mentioned)
    content: list[str | int] = []
    for _, name in found:
        content += [f"; {name}" if content else f" {name}", *boxes[name]]
    return content


def trajectory_content(points: Sequence[tuple[int, int]]) -> str:
    """At most 25 future points of the one gripper."""
    return "main gripper: " + " ".join(f"({x},{y})" for x, y in points[:MAX_POINTS])


def text_of(pieces: Pieces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids int64[L], kinds int64[L], targets bool[L])."""
    lengths = [len(p.ids) for p in pieces]
    return (
        np.concatenate([p.ids for p in pieces]),
        np.repeat(np.array([p.kind for p in pieces], dtype=np.int64), lengths),
        np.repeat(np.array([p.target for p in pieces]), lengths),
    )


def turns_of(pieces: Pieces) -> np.ndarray | None:
    """int64[L], None when the text is one."""
    if not any(p.turn for p in pieces):
        return None
    return np.repeat(np.array([p.turn for p in pieces], dtype=np.int64), [len(p.ids) for p in pieces])


def parse_levels(text: str) -> dict[str, str]:
    """{level: content} of the lines that start with a header."""
    found = {}
    for line in text.split("\n"):
        for level, header in HEADERS.items():
            if line.startswith(header) and level not in found:
                found[level] = line.removeprefix(header).strip()
    return found


def parse_boxes(content: str) -> dict[str, tuple[int, int, int, int]]:
    """{name: box} of a box level's content; what is not well-formed is passed over."""
    found = {}
    for part in content.split(";"):
        if match := BOX.fullmatch(part.strip()):
            name, x1, y1, x2, y2 = match.groups()
            found[name] = (int(x1), int(y1), int(x2), int(y2))
    return found


def parse_points(content: str) -> list[tuple[int, int]]:
    """The points of a trajectory level's content."""
    return [(int(x), int(y)) for x, y in POINT.findall(content)]

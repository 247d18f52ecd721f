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
from typing import Literal

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.text.cogact_prompt import words_ids
from visuomotor.text.tokenizer import TextTokenizer

__all__ = [
    "HEADERS", "LEVELS", "LEVEL_NEEDS", "Piece", "Pieces", "PromptStyle", "Words", "action_pieces", "box_content",
    "exchange_pieces", "header_piece", "level_pieces", "parse_boxes", "parse_levels", "parse_points", "prompt_pieces",
    "spoken", "text_of",
    "trajectory_content", "turns_of", "words_piece",
]  # fmt: skip

PromptStyle = Literal["plain", "dm0", "cogact", "qwen2_vl"]
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
FIXED_TEXT = (*HEADERS.values(), "main gripper:", "yes", "no", "nothing", DM0_SYSTEM, "USER: ", "ASSISTANT: ")


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one kind. `target`: the text loss predicts them; `turn` as in contract.Batch."""

    ids: np.ndarray
    kind: int
    target: bool
    turn: int = 0


Pieces = list[Piece]


def prompt_pieces(
    tokenizer: TextTokenizer, instruction: str, style: PromptStyle, *, answers: bool = False, tags: Sequence[Piece] = ()
) -> Pieces:
    """The instruction as the user's turn, which `tags` begin. `answers`: levels follow, which the DM0 layout marks."""
    if style == "cogact":
        return [Piece(words_ids(tokenizer, instruction), TextKind.PROMPT, False)]
    if style == "plain":
        before, after = [], [" ".join(instruction.split()) + "\n"]
    else:
        words = instruction.strip().replace("\n", " ")  # other spaces stay as they are, as published
        before, after = [DM0_SYSTEM, "USER: "], [words + " ", *(["ASSISTANT: "] if answers else [])]
    opening, said = ([Piece(tokenizer.encode(t), TextKind.PROMPT, False) for t in texts] for texts in (before, after))
    return [*opening, *tags, *said]


def header_piece(tokenizer: TextTokenizer, level: str, turn: int = 0) -> Piece:
    """The header of a level, never a target."""
    return Piece(tokenizer.encode(HEADERS[level]), KINDS[level], False, turn)


def level_pieces(tokenizer: TextTokenizer, level: str, content: Words, turn: int = 0) -> Pieces:
    """Header, content (text, or words and coordinates 0-1000) and newline of one level."""
    ids = np.concatenate([*_encode(tokenizer, content), tokenizer.encode("\n")])
    return [header_piece(tokenizer, level, turn), Piece(ids, KINDS[level], True, turn)]


def action_pieces(tokenizer: TextTokenizer, tokens: np.ndarray, turn: int = 0) -> Pieces:
    """Action line of action tokens from 0: bins int[n, d], time-major, or FAST tokens int[n]."""
    ids = np.empty(tokens.size + 1, dtype=np.int64)
    np.add(tokens.reshape(-1), tokenizer.require_actions(), out=ids[:-1])
    ids[-1] = tokenizer.newline_id
    return [header_piece(tokenizer, "action", turn), Piece(ids, TextKind.ACTION, True, turn)]


def words_piece(tokenizer: TextTokenizer, content: Words, kind: TextKind, *, target: bool, turn: int = 0) -> Piece:
    """Words and coordinates, ended by a newline."""
    return Piece(np.concatenate([*_encode(tokenizer, content), tokenizer.encode("\n")]), kind, target, turn)


def exchange_pieces(
    tokenizer: TextTokenizer, ask: Words, answer: Words | None, style: PromptStyle, *, turn: int = 0, first: bool = True
) -> Pieces:
    """A question and its answer, which is a target; None: the model has to give it. `first`: nothing stands before.

    Raises:
        ValueError: the layout has no answers, or no place for questions on images.
    """
    if style == "cogact":
        raise ValueError("A text of the layout 'cogact' has no answer; train on robot data alone, or prompt 'plain'.")
    if style == "qwen2_vl":
        raise ValueError(
            "Questions on images have no place in DexVLA's chat layout (prompt='qwen2_vl'); leave them out."
        )
    if style == "plain":
        pieces = [words_piece(tokenizer, ask, TextKind.PROMPT, target=False, turn=turn)]
    else:
        texts = [*([DM0_SYSTEM] if first else []), "USER: ", f"{spoken(ask)} ", "ASSISTANT: "]
        pieces = [Piece(tokenizer.encode(text), TextKind.PROMPT, False, turn) for text in texts]
    if answer is None:
        return pieces
    return [*pieces, words_piece(tokenizer, answer, TextKind.ANSWER, target=True, turn=turn)]


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
    return " main gripper: " + " ".join(f"({x},{y})" for x, y in points[:MAX_POINTS])


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
    turns = np.repeat(np.array([p.turn for p in pieces], dtype=np.int64), [len(p.ids) for p in pieces])
    return turns if turns.any() else None


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


def _encode(tokenizer: TextTokenizer, content: Words) -> list[np.ndarray]:
    if isinstance(content, str):
        return [tokenizer.encode(content)]
    return [tokenizer.encode(c) if isinstance(c, str) else tokenizer.numbers[c] for c in content]

"""What the text of a training sample says: scaffold levels of a robot frame, or questions on its boxes.

`shifts` holds the augmentation's shift per camera name, in the model's order: boxes and points refer to the first.
"""

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.data import grounding, scaffold
from visuomotor.data.augment import Shift
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.prepared import Prepared
from visuomotor.data.tokenizer import TextTokenizer

__all__ = ["grounding_text", "robot_text"]

Boxes = dict[str, tuple[int, int, int, int]]


def robot_text(
    config: ProcessorConfig,
    tokenizer: TextTokenizer,
    prepared: Prepared,
    row: int,
    bins: np.ndarray,
    shifts: dict[str, Shift],
    rng: np.random.Generator,
) -> scaffold.Pieces:
    """Prompt and the levels that the draw keeps; `bins` int[n, a] are the chunk's valid steps."""
    kept = {level: rng.random() < config.levels.get(level, 0.0) for level in scaffold.LEVELS}
    instruction = prepared.instruction(row)
    pieces: scaffold.Pieces = []
    if kept["subtask"] and prepared.annotation(row).subtask:
        pieces += scaffold.level_pieces(tokenizer, "subtask", " " + prepared.annotation(row).subtask)
    if kept["box"]:
        annotation = prepared.annotation(row)
        content = scaffold.box_content(_boxes(prepared, row, shifts), f"{instruction} {annotation.subtask}")
        if content:
            pieces += scaffold.level_pieces(tokenizer, "box", content)
    if kept["trajectory"]:
        points = _points(prepared, row, shifts, config.trajectory_stride)
        if points:
            pieces += scaffold.level_pieces(tokenizer, "trajectory", scaffold.trajectory_content(points))
    if kept["action"]:
        pieces += scaffold.action_pieces(tokenizer, bins[:: config.action_token_stride])
    return scaffold.prompt_pieces(tokenizer, instruction, config.prompt, answers=bool(pieces)) + pieces


def grounding_text(
    config: ProcessorConfig,
    tokenizer: TextTokenizer,
    prepared: Prepared,
    row: int,
    shifts: dict[str, Shift],
    rng: np.random.Generator,
) -> scaffold.Pieces:
    """`questions_per_image` questions with answers, one after the other; those beyond max_text are left out whole."""
    boxes = _boxes(prepared, row, shifts)
    pieces: scaffold.Pieces = []
    length = 0
    for q in grounding.questions(boxes, prepared.vocabulary(), rng, config.questions_per_image):
        pair = [
            scaffold.words_piece(tokenizer, q.ask, TextKind.PROMPT, target=False),
            scaffold.words_piece(tokenizer, q.answer, TextKind.ANSWER, target=True),
        ]
        length += sum(len(p.ids) for p in pair)
        if pieces and length > config.max_text:
            break
        pieces += pair
    return pieces


def _boxes(prepared: Prepared, row: int, shifts: dict[str, Shift]) -> Boxes:
    """Boxes in the first view after its shift; those that left the image are dropped."""
    camera, shift = next(iter(shifts.items()))
    boxes = prepared.annotation(row).boxes.get(camera, {})
    if not (shift.x or shift.y):
        return boxes
    moved = {name: shift.box(box) for name, box in boxes.items()}
    return {name: box for name, box in moved.items() if box is not None}


def _points(prepared: Prepared, row: int, shifts: dict[str, Shift], stride: int) -> list[tuple[int, int]]:
    """Future end-effector points in the first view, after its shift; a point outside the image ends the line."""
    camera, shift = next(iter(shifts.items()))
    rows = np.arange(row, prepared.end[row], stride)[: scaffold.MAX_POINTS]
    annotations = prepared.load_annotations(rows)
    points = []
    for r in rows.tolist():
        point = annotations[r].point.get(camera)
        if point is None:
            break
        x, y = shift.point(*point)
        if not (0 <= x <= 1000 and 0 <= y <= 1000):
            break
        points.append((x, y))
    return points

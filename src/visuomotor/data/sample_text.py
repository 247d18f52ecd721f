"""What the text of a training sample says: scaffold levels of a robot frame, or questions on its boxes.

`shifts` holds the augmentation's shift per camera name, in the model's order: boxes and points refer to the first.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from visuomotor.data.augment import Shift
from visuomotor.data.config import Objective, ProcessorConfig
from visuomotor.data.prepared import Prepared
from visuomotor.embodiment import Embodiment
from visuomotor.text import grounding, scene_questions, templates
from visuomotor.text.layout import Content, TextLayout, TextRequest, lay_out
from visuomotor.text.scaffold import LEVELS, MAX_POINTS, Pieces, box_content, trajectory_content

__all__ = ["grounding_text", "observation_text", "robot_text"]

FIRST_VIEW_SHARE = 0.75  # of the grounding questions, where there are several views
Boxes = dict[str, tuple[int, int, int, int]]


def robot_request(
    config: ProcessorConfig,
    embodiment: Embodiment,
    instruction: str,
    state: np.ndarray,
    levels: Sequence[str],
    contents: Mapping[str, Content],
    *,
    rng: np.random.Generator | None = None,
    next_level: str | None = None,
) -> TextRequest:
    """Request for a text: with `rng` of a sample; without it of an observation, in the words of inference.

    state: normalised float[S]; the text names the robot's own dimensions.
    """
    complete = rng is not None
    if config.templates != "none":
        wording: templates.Wording = "train" if rng is not None else "canonical"
        if rng is None and config.templates == "heldout":
            wording, rng = "heldout", np.random.default_rng(zlib.crc32(instruction.encode()))
        instruction = templates.instruct(instruction, levels, embodiment.name, wording, rng)
    return TextRequest(
        instruction=instruction,
        views=sum(role in embodiment.roles for role in config.image_roles),
        state=state[: embodiment.state_dim],
        robot=embodiment if config.tags else None,
        levels=tuple(levels),
        contents=contents,
        turns={level: config.turn(level) for level in contents},
        next_level=next_level,
        complete=complete,
        queries=config.horizon * config.action_width,
    )


def robot_text(
    config: ProcessorConfig,
    layout: TextLayout,
    embodiment: Embodiment,
    prepared: Prepared,
    row: int,
    action_tokens: Callable[[], np.ndarray],
    shifts: dict[str, Shift],
    rng: np.random.Generator,
) -> Pieces:
    """Prompt and the levels that the draw selects, in their order; `action_tokens` gives those of the row's chunk."""
    selected = {level: rng.random() < config.levels.get(level, 0.0) for level in LEVELS}
    instruction, state = prepared.instruction(row), prepared.state_at(row)
    contents: dict[str, Content] = {}
    for level in (level for level in config.level_order if selected[level]):
        if level == "action":
            contents[level] = action_tokens()
        elif content := _content(level, config, prepared, row, instruction, shifts) or layout.placeholder:
            contents[level] = content
    return lay_out(layout, robot_request(config, embodiment, instruction, state, tuple(contents), contents, rng=rng))


def observation_text(
    config: ProcessorConfig,
    layout: TextLayout,
    embodiment: Embodiment,
    instruction: str,
    state: np.ndarray,
    levels: Sequence[str],
    written: Mapping[str, str],
) -> Pieces:
    """Text of an observation: the same as in training, up to what the model writes.

    state: normalised float[S];
    levels: those that the model writes; `written`: contents of those that it wrote before.
    """
    present = tuple(level for level in LEVELS if written.get(level) or level in levels)
    contents = {level: written[level] for level in config.level_order if written.get(level)}
    # Levels that do not see each other begin from the prompt, each with its own header.
    next_level = levels[0] if levels and config.scaffold == "sequential" else None
    return lay_out(
        layout, robot_request(config, embodiment, instruction, state, present, contents, next_level=next_level)
    )


def _content(
    level: str, config: ProcessorConfig, prepared: Prepared, row: int, instruction: str, shifts: dict[str, Shift]
) -> Sequence[str | int] | str:
    """Content of a level of a row; empty where the data has none."""
    if level == "trajectory":
        points = _points(config, prepared, row, shifts)
        return trajectory_content(points) if points else ""
    annotation = prepared.annotation(row)
    if level == "subtask":
        return annotation.subtask
    return box_content(_boxes(config, prepared, row, shifts)[0], f"{instruction} {annotation.subtask}")


def grounding_text(
    config: ProcessorConfig,
    layout: TextLayout,
    prepared: Prepared,
    row: int,
    shifts: dict[str, Shift],
    rng: np.random.Generator,
    objective: Objective = "grounding",
    kinds: Mapping[str, float] | None = None,
) -> Pieces:
    """`questions_per_image` questions with answers, each a turn of its own; those beyond max_text are left out whole.

    No question sees another one's answer: boxes that were already given away would otherwise tell which are left, and a
    model learns that before it learns to look.
    Most are on the first view, which the box level refers to, the others spread over the other views at random; a
    question on another view than the first begins with the camera's name. Objective "boxes": just where the things of
    the first view are that come and go, each asked once; "questions": on the first view, of the given kinds and weights
    (all alike when None).
    """
    if config.augment.crop or config.augment.rotation:
        raise ValueError("augment.crop and augment.rotation do not move boxes, of which questions ask; set them to 0.")
    boxes = _boxes(config, prepared, row, shifts)
    if objective == "boxes":
        asked = grounding.box_questions(boxes[0], prepared.vocabulary(), rng, config.questions_per_image)
    elif objective == "questions":
        weights = kinds or dict.fromkeys(scene_questions.KINDS, 1.0)
        asked = scene_questions.ask(boxes[0], prepared.vocabulary(), rng, weights, config.questions_per_image)
        asked = asked or [grounding.exists(boxes[0], prepared.vocabulary(), rng)]  # a sample needs a text
    else:
        asked = _spread(config, prepared, boxes, list(shifts), rng)
    pieces: Pieces = []
    length = 0
    for turn, q in enumerate(asked, 1):
        ask = q.ask if config.templates == "none" else templates.question_words(q, "train", rng)
        pair = layout.exchange(ask, q.answer, turn=turn)
        length += sum(len(p.ids) for p in pair)
        if pieces and length > config.max_text:
            break
        pieces += pair
    return pieces


def _spread(
    config: ProcessorConfig, prepared: Prepared, boxes: list[Boxes], views: list[str], rng: np.random.Generator
) -> list[grounding.Question]:
    """Questions on all views, most on the first."""
    others = len(views) - 1
    share = [FIRST_VIEW_SHARE, *[(1 - FIRST_VIEW_SHARE) / others] * others] if others else [1.0]
    per_view = rng.multinomial(config.questions_per_image, share).tolist()
    asked: list[grounding.Question] = []
    for name, shown, count in zip(["", *views[1:]], boxes, per_view, strict=True):
        asked += grounding.questions(shown, prepared.vocabulary(), rng, count, name)
    return asked


def _boxes(config: ProcessorConfig, prepared: Prepared, row: int, shifts: dict[str, Shift]) -> list[Boxes]:
    """Boxes per view after its shift, in the coordinates of texts; those that left the image are dropped."""
    annotated, views = prepared.annotation(row).boxes, []
    for camera, shift in shifts.items():
        boxes = annotated.get(camera, {})
        moved = {name: shift.box(box) for name, box in boxes.items()} if shift.x or shift.y else boxes
        c = config.coordinate
        views.append({n: (c(b[0]), c(b[1]), c(b[2]), c(b[3])) for n, b in moved.items() if b is not None})
    return views


def _points(config: ProcessorConfig, prepared: Prepared, row: int, shifts: dict[str, Shift]) -> list[tuple[int, int]]:
    """Future end-effector points in the first view, after its shift; a point outside the image ends the line."""
    camera, shift = next(iter(shifts.items()))
    rows = np.arange(row, prepared.end[row], config.trajectory_stride)[:MAX_POINTS]
    annotations = prepared.load_annotations(rows)
    points = []
    for r in rows.tolist():
        point = annotations[r].point.get(camera)
        if point is None:
            break
        x, y = shift.point(*point)
        if not (0 <= x <= 1000 and 0 <= y <= 1000):
            break
        points.append((config.coordinate(x), config.coordinate(y)))
    return points

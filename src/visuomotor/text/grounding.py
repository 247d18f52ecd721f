"""Questions about the boxes of one image, with exact answers: vision-language samples from any annotated frame.

Left and right are the image's. Words and coordinates are kept apart ("Box: red block", 412, ...) so that the
tokenizer's cache of sentences and numbers serves every sample.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

__all__ = ["PHRASES", "Question", "box_questions", "questions"]

Box = tuple[int, int, int, int]
Boxes = Mapping[str, Box]
Words = list[str | int]
PHRASES = (
    "Where is the", "Is there a", "What is at", "What is nearest to the", "What is left of the", "What is right of the",
    "Is anything here?",
)  # fmt: skip
BOX_SHARE, RELATION_SHARE = 0.8, 0.1
FURNITURE = 0.9  # share of frames from which on an object counts as always there
ALWAYS_SHOWN = 0.1  # weight of an object that every frame shows, beside one that few do


@dataclass(frozen=True, slots=True)
class Question:
    """Question and answer as words and coordinates 0-1000.

    `kind`, and `slots` {name: text} that its templates leave open; `view` is named in front where it is not the first.
    """

    ask: Words
    answer: Words
    kind: str
    slots: dict[str, str] = field(default_factory=dict)
    view: str = ""


def questions(
    boxes: Boxes, vocabulary: Mapping[str, float], rng: np.random.Generator, count: int, view: str = ""
) -> list[Question]:
    """`count` questions on one image.

    boxes: visible objects {name: (x1, y1, x2, y2)}; vocabulary: {object name of the data set: share of frames that
    show it}, from which absent objects are asked after. Most questions ask for a box, which is what teaches seeing,
    and rather for objects that come and go than for those in every frame, whose place is known without looking.
    `view` names the view that is asked about, where it is not the first.
    """
    names = list(boxes)
    weight = np.array([ALWAYS_SHOWN + 1 - vocabulary.get(name, 0.0) for name in names])
    order = np.argsort(-np.log(weight) - rng.gumbel(size=len(names)))  # by weight, without repetition
    asked, chosen = 0, []
    for _ in range(count):
        if names and (draw := rng.random()) < BOX_SHARE:
            chosen.append(where(names[order[asked % len(names)]], boxes))
            asked += 1
        elif names and draw < BOX_SHARE + RELATION_SHARE:
            relation = RELATIONS[int(rng.random() * len(RELATIONS))]
            chosen.append(relation(names[int(rng.random() * len(names))], boxes))
        else:
            chosen.append(exists(boxes, vocabulary, rng))
    return [replace(q, ask=[f"{view}: ", *q.ask], view=view) for q in chosen] if view else chosen


def box_questions(
    boxes: Boxes, vocabulary: Mapping[str, float], rng: np.random.Generator, count: int
) -> list[Question]:
    """Where the objects are that come and go, in random order, at most `count` of them; any object where there is none.

    Nothing can be answered without looking, and no question is asked twice. An empty image gets the question whether
    anything is there.
    """
    moving = [name for name in boxes if vocabulary.get(name, 0.0) < FURNITURE] or list(boxes)
    order = rng.permutation(len(moving))[:count]
    return [where(moving[i], boxes) for i in order] or [exists(boxes, vocabulary, rng)]


def where(name: str, boxes: Boxes) -> Question:
    return Question([f"Where is the {name}?"], [f"Box: {name}", *boxes[name]], "box", {"object": name})


def exists(boxes: Boxes, vocabulary: Iterable[str], rng: np.random.Generator) -> Question:
    """Yes and no are equally frequent where both are possible."""
    absent = [name for name in vocabulary if name not in boxes]
    present = list(boxes)
    pool = present if present and (not absent or rng.random() < 0.5) else absent
    if not pool:
        return Question(["Is anything here?"], ["no"], "anything")
    name = pool[int(rng.random() * len(pool))]
    return Question([f"Is there a {name}?"], ["yes" if name in boxes else "no"], "presence", {"object": name})


def what_at(name: str, boxes: Boxes) -> Question:
    """Asks for the object at the centre of `name`'s box: the smallest box that contains the point."""
    x, y = (int(v) for v in centre(boxes[name]))
    inside = [n for n, (x1, y1, x2, y2) in boxes.items() if x1 <= x <= x2 and y1 <= y <= y2]
    answer = min(inside, key=lambda n: area(boxes[n]))
    return Question(["What is at", x, y, "?"], [answer], "at", {"place": f"{x} {y}"})


def nearest(name: str, boxes: Boxes) -> Question:
    others = [n for n in boxes if n != name]
    x, y = centre(boxes[name])

    def distance(other: str) -> float:
        cx, cy = centre(boxes[other])
        return (cx - x) ** 2 + (cy - y) ** 2

    answer = min(others, key=distance) if others else "nothing"
    return Question([f"What is nearest to the {name}?"], [answer], "nearest", {"object": name})


def left_of(name: str, boxes: Boxes) -> Question:
    return Question([f"What is left of the {name}?"], [_beside(name, boxes, -1)], "left", {"object": name})


def right_of(name: str, boxes: Boxes) -> Question:
    return Question([f"What is right of the {name}?"], [_beside(name, boxes, 1)], "right", {"object": name})


RELATIONS: tuple[Callable[[str, Boxes], Question], ...] = (what_at, nearest, left_of, right_of)


def centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _beside(name: str, boxes: Boxes, side: int) -> str:
    """All objects on one side, the closest first, or "nothing"."""
    x = centre(boxes[name])[0]
    found = sorted((side * (centre(b)[0] - x), n) for n, b in boxes.items() if n != name)
    return ", ".join(n for gap, n in found if gap > 0) or "nothing"

"""Kinds of questions about one annotated image: caption, count, colour, relation, presence, box, and what is where.

Everything follows from names and boxes. A name is its object's noun, the last word, and what stands before it ("red
block"); where a name begins with a colour term of English, that is its colour. The boxes must be those of everything in
view that the vocabulary names, or counts and captions are wrong.
"""

from collections.abc import Callable, Mapping

import numpy as np

from visuomotor.spelling import did_you_mean
from visuomotor.text import grounding
from visuomotor.text.grounding import FURNITURE, Box, Boxes, Question, centre, exists
from visuomotor.text.scaffold import spoken

__all__ = ["KINDS", "PHRASES", "ask", "check_kinds"]

Vocabulary = Mapping[str, float]
Ask = Callable[[Boxes, Vocabulary, np.random.Generator], Question | None]  # None: the image does not allow it
COLOUR_TERMS = frozenset({
    "beige", "black", "blue", "brown", "cyan", "gold", "gray", "green", "grey", "indigo", "magenta", "maroon",
    "navy", "olive", "orange", "pink", "purple", "red", "silver", "tan", "teal", "turquoise", "violet", "white",
    "yellow",
})  # fmt: skip
SIDES = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}  # axis of the image, direction
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PHRASES = (
    "What is in the image?", "How many blocks are there?", "What colour is the cup?",
    "a red block, an orange cup and a", *(f"Is the red block {side} the cup?" for side in SIDES),
)  # fmt: skip


def ask(
    boxes: Boxes, vocabulary: Vocabulary, rng: np.random.Generator, kinds: Mapping[str, float], count: int
) -> list[Question]:
    """At most `count` different questions, their kinds drawn by weight among those that the image allows."""
    names, weights = list(kinds), np.log(list(kinds.values()))
    found: dict[str, Question] = {}
    for _ in range(count):
        for kind in np.argsort(-weights - rng.gumbel(size=len(names))):
            question = KINDS[names[kind]](boxes, vocabulary, rng)
            if question is not None:
                found.setdefault(spoken(question.ask), question)
                break
    return list(found.values())


def check_kinds(kinds: Mapping[str, float]) -> None:
    """ValueError unless `kinds` are known and have positive weights."""
    for kind, weight in kinds.items():
        if kind not in KINDS:
            hint = did_you_mean(kind, KINDS)
            raise ValueError(f"There is no kind of question {kind!r}.{hint} Choose from {list(KINDS)}.")
        if not weight > 0:
            raise ValueError(f"Questions of kind {kind!r} have weight {weight}; give a positive one or leave it out.")
    if not kinds:
        raise ValueError(f"No kind of question is chosen; choose from {list(KINDS)}.")


def caption(boxes: Boxes, vocabulary: Vocabulary, rng: np.random.Generator) -> Question | None:
    """Names what comes and goes, from left to right."""
    shown = sorted((centre(boxes[name])[0], name) for name in boxes if _moves(name, vocabulary))
    names = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for _, name in shown]
    listed = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "nothing"
    return Question(["What is in the image?"], [listed], "caption")


def count(boxes: Boxes, vocabulary: Vocabulary, rng: np.random.Generator) -> Question | None:
    """How many things of a noun there are; nouns that the image lacks are asked for, too."""
    nouns = sorted({_noun(name) for name in vocabulary if _moves(name, vocabulary)})
    if not nouns:
        return None
    noun = nouns[int(rng.random() * len(nouns))]
    things = _plural(noun)
    return Question(
        [f"How many {things} are there?"], [str(sum(_noun(n) == noun for n in boxes))], "count", {"things": things}
    )


def colour(boxes: Boxes, vocabulary: Vocabulary, rng: np.random.Generator) -> Question | None:
    """Asked of things that are the only ones of their noun in view."""
    nouns = [_noun(name) for name in boxes]
    alone = [name for name in boxes if _colour(name) and nouns.count(_noun(name)) == 1]
    if not alone:
        return None
    name = alone[int(rng.random() * len(alone))]
    thing = name.removeprefix(_colour(name)).strip()
    return Question([f"What colour is the {thing}?"], [_colour(name)], "colour", {"object": thing})


def relation(boxes: Boxes, vocabulary: Vocabulary, rng: np.random.Generator) -> Question | None:
    """Yes and no are equally frequent; only asked where one thing is clearly on that side of the other."""
    clear = [
        (a, b, side) for a in boxes for b in boxes if a != b for side in SIDES if _beside(boxes[a], boxes[b], side)
    ]
    if not clear:
        return None
    a, b, side = clear[int(rng.random() * len(clear))]
    true = rng.random() < 0.5
    asked = side if true else OPPOSITE[side]
    slots = {"object": a, "relation": asked, "reference": b}
    return Question([f"Is the {a} {asked} the {b}?"], ["yes" if true else "no"], "relation", slots)


def _of_one(make: Callable[[str, Boxes], Question]) -> Ask:
    """A question about one thing in view, what comes and goes before furniture."""

    def draw(boxes: Boxes, vocabulary: Vocabulary, rng: np.random.Generator) -> Question | None:
        names = [name for name in boxes if _moves(name, vocabulary)] or list(boxes)
        return make(names[int(rng.random() * len(names))], boxes) if names else None

    return draw


KINDS: dict[str, Ask] = {
    "caption": caption, "count": count, "colour": colour, "relation": relation, "presence": exists,
    "box": _of_one(grounding.where), "at": _of_one(grounding.what_at), "nearest": _of_one(grounding.nearest),
    "left": _of_one(grounding.left_of), "right": _of_one(grounding.right_of),
}  # fmt: skip


def _moves(name: str, vocabulary: Vocabulary) -> bool:
    return vocabulary.get(name, 0.0) < FURNITURE


def _noun(name: str) -> str:
    return name.split()[-1]


def _colour(name: str) -> str:
    first, *rest = name.split()
    return first if rest and first in COLOUR_TERMS else ""


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else f"{noun}s"


def _beside(a: Box, b: Box, side: str) -> bool:
    """Whether the centre of `a` is on that side of `b`'s by more than half their mean extent."""
    axis, sign = SIDES[side]
    extent = a[axis + 2] - a[axis] + b[axis + 2] - b[axis]
    return sign * (centre(a)[axis] - centre(b)[axis]) > extent / 4

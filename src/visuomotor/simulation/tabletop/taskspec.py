"""What the tabletop world can be asked to do: one task as data, and the vocabularies that tasks are built from."""

import re
from dataclasses import dataclass
from typing import Literal

from visuomotor.spelling import did_you_mean

Pair = tuple[str, str]  # (colour, shape)
Needs = Literal["nothing", "object", "object and reference", "steps"]

BOWLS = ("left bowl", "right bowl")
RELATIONS: dict[str, Needs] = {
    "lift": "object",
    "put_in": "object",
    "push": "object",
    "push_behind": "object and reference",
    "push_beside": "object and reference",
    "put_on": "object and reference",
    "open_drawer": "nothing",
    "close_drawer": "nothing",
    "press_button": "nothing",
    "sequence": "steps",
}
TARGETS: dict[str, tuple[str, ...]] = {"put_in": (*BOWLS, "drawer"), "push": ("left", "right")}
REFERENCE_SHAPES: dict[str, tuple[str, ...]] = {"put_on": ("block", "disc")}  # flat enough to carry another object


@dataclass(frozen=True)
class TaskSpec:
    """One task: `put_in` the `red` `block` to target `left bowl`; `push_behind` a reference (colour, shape); ...

    `target` is a place ("left bowl", "right bowl", "drawer") or a direction ("left", "right"); `steps` are the
    tasks of a `sequence`, in order.
    """

    relation: str
    colour: str | None = None
    shape: str | None = None
    target: str | None = None
    reference: Pair | None = None
    steps: tuple["TaskSpec", ...] = ()

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise ValueError(f"Unknown relation {self.relation!r}.{_did_you_mean(self.relation, tuple(RELATIONS))}")
        needs, targets = RELATIONS[self.relation], TARGETS.get(self.relation)
        if needs.startswith("object") != (self.colour is not None and self.shape is not None):
            raise ValueError(f"{self.relation} needs {needs}, but got the object {self.colour!r} {self.shape!r}.")
        if needs.endswith("reference") != (self.reference is not None):
            raise ValueError(f"{self.relation} needs {needs}, but got the reference {self.reference!r}.")
        if (targets is None and self.target is not None) or (targets is not None and self.target not in targets):
            raise ValueError(f"{self.relation} cannot have the target {self.target!r}; it has {targets or 'none'}.")
        if (needs == "steps") != bool(self.steps):
            raise ValueError(f"{self.relation} needs {needs}, but got {len(self.steps)} steps.")
        if self.reference is not None and self.reference == (self.colour, self.shape):
            raise ValueError(f"{self.relation} cannot have the {self.colour} {self.shape} as object and as reference.")

    @property
    def id(self) -> str:
        """Readable and unique: `put_in(red block, left bowl)`; the inverse is `parse`."""
        if self.steps:
            return f"{self.relation}({'; '.join(step.id for step in self.steps)})"
        pairs = [f"{colour} {shape}" for colour, shape in self.objects]
        return f"{self.relation}({', '.join([*pairs, *([self.target] if self.target else [])])})"

    @property
    def kind(self) -> str:
        """Relation and target without the object, e.g. `put_in left bowl`: what data sets are balanced over."""
        return f"{self.relation} {self.target}" if self.target else self.relation

    @property
    def goal(self) -> Pair | None:
        """(colour, shape) of the object that the task moves, of a sequence the first; None for `press_button` etc."""
        if self.colour is not None and self.shape is not None:
            return self.colour, self.shape
        return next((step.goal for step in self.steps if step.goal), None)

    @property
    def objects(self) -> tuple[Pair, ...]:
        """Every (colour, shape) that the task names, goal first, without repetition."""
        own = [(self.colour, self.shape)] if self.colour and self.shape else []
        named = [*own, *([self.reference] if self.reference else []), *(p for s in self.steps for p in s.objects)]
        return tuple(dict.fromkeys(named))

    @classmethod
    def parse(cls, id: str) -> "TaskSpec":
        """The task that `id` names; a ValueError says what is wrong with it."""
        match = re.fullmatch(r"\s*(\w+)\((.*)\)\s*", id)
        if match is None:
            raise ValueError(f"{id!r} is not a task id. Write e.g. 'put_in(red block, left bowl)' or 'press_button()'.")
        relation, inside = match[1], match[2].strip()
        if relation == "sequence":
            return cls(relation, steps=tuple(cls.parse(part) for part in inside.split(";")))
        words = [word.strip() for word in inside.split(",")] if inside else []
        needs = RELATIONS.get(relation, "nothing")
        expected = (needs != "nothing") + (needs == "object and reference") + (relation in TARGETS)
        if relation in RELATIONS and len(words) != expected:
            raise ValueError(f"Task id {id!r}: {relation} has {expected} arguments, but {len(words)} were given.")
        pairs = [_pair(word, id) for word in words[: 1 + (needs == "object and reference")]]
        colour, shape = pairs[0] if pairs else (None, None)
        return cls(
            relation,
            colour,
            shape,
            target=words[-1] if relation in TARGETS else None,
            reference=pairs[1] if len(pairs) > 1 else None,
        )


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The words in use. `kinds` lists (relation, target); `unseen` are pairs that training never names."""

    name: str
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    kinds: tuple[tuple[str, str | None], ...]
    unseen: tuple[Pair, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        return tuple((colour, shape) for colour in self.colours for shape in self.shapes)

    @property
    def seen(self) -> tuple[Pair, ...]:
        """The pairs that training names."""
        return tuple(pair for pair in self.pairs if pair not in self.unseen)


SMALL = Vocabulary(
    name="small",
    colours=("red", "green", "blue", "yellow"),
    shapes=("block", "disc", "cup"),
    kinds=(("lift", None), ("put_in", "left bowl"), ("put_in", "right bowl"), ("push", "left"), ("push", "right")),
    unseen=(("red", "cup"), ("yellow", "disc")),
)
FULL = Vocabulary(
    name="full",
    colours=(*SMALL.colours, "orange", "purple", "white", "cyan"),
    shapes=(*SMALL.shapes, "can", "bar"),
    kinds=(
        *SMALL.kinds,
        ("push_behind", None),
        ("push_beside", None),
        ("put_on", None),
        ("put_in", "drawer"),
        ("sequence", None),
        ("open_drawer", None),
        ("close_drawer", None),
        ("press_button", None),
    ),
    unseen=(
        *SMALL.unseen,
        ("orange", "can"),
        ("purple", "bar"),
        ("white", "block"),
        ("cyan", "disc"),
        ("green", "bar"),
    ),
)
VOCABULARIES = {"small": SMALL, "full": FULL}


def get_vocabulary(name: str | Vocabulary) -> Vocabulary:
    """A vocabulary by name; a Vocabulary is returned as it is."""
    if isinstance(name, Vocabulary):
        return name
    if name not in VOCABULARIES:
        raise ValueError(f"Unknown vocabulary {name!r}.{_did_you_mean(name, tuple(VOCABULARIES))}")
    return VOCABULARIES[name]


def drawer_sequence(colour: str, shape: str) -> TaskSpec:
    """Open the drawer, put the object in, close it."""
    put = TaskSpec("put_in", colour, shape, target="drawer")
    return TaskSpec("sequence", steps=(TaskSpec("open_drawer"), put, TaskSpec("close_drawer")))


def _pair(text: str, id: str) -> Pair:
    colour, _, shape = text.partition(" ")
    if colour not in FULL.colours or shape not in FULL.shapes:
        raise ValueError(
            f"Task id {id!r}: {text!r} is not an object; write a colour of {', '.join(FULL.colours)} "
            f"and a shape of {', '.join(FULL.shapes)}."
        )
    return colour, shape


def _did_you_mean(word: str, words: tuple[str, ...]) -> str:
    return f"{did_you_mean(word, words)} Known: {', '.join(words)}."

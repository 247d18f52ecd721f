"""The grammar: sentences for a task. `(a|b)` in a template means either word; `<object>` and the like are phrases.

A template belongs to training or is held out; the first alternatives of the first one give the canonical sentence.
"""

from collections.abc import Iterator
from typing import Literal

import numpy as np

from visuomotor.simulation.tabletop.taskspec import REFERENCE_SHAPES, TaskSpec, Vocabulary, drawer_sequence
from visuomotor.simulation.tabletop.templates import PHRASES, TEMPLATES
from visuomotor.text.phrases import Phrase, parse

Split = Literal["train", "heldout"]
JOINS: dict[Split, tuple[str, ...]] = {"train": (", then ", " and then "), "heldout": ("; next ", ", after that ")}


def instruction(spec: TaskSpec, rng: np.random.Generator | None = None, split: Split = "train") -> str:
    """The canonical sentence of a task, or with `rng` one of its paraphrases of `split`."""
    sentences = paraphrases(spec, split)
    return sentences[0] if rng is None else sentences[int(rng.integers(len(sentences)))]


def paraphrases(spec: TaskSpec, split: Split = "train") -> tuple[str, ...]:
    """Every sentence that the grammar has for a task. Held-out sentences share no template with training."""
    if spec.steps and spec != _drawer_sequence_like(spec):
        return _joined(spec, split)
    return tuple(
        dict.fromkeys(s for template in TEMPLATES[spec.relation][split] for s in _expand(template, spec, split))
    )


def subtasks(spec: TaskSpec) -> tuple[str, ...]:
    """Phrases for the phases of a task, in order, e.g. `reach for the red block`, `grasp the red block`, ..."""
    if spec.steps:
        return tuple(dict.fromkeys(phrase for step in spec.steps for phrase in subtasks(step)))
    if spec.goal is None:
        thing = "button" if spec.relation == "press_button" else "drawer handle"
        return f"reach for the {thing}", instruction(spec)
    it = _name(spec.goal)
    if spec.relation.startswith("push"):
        return f"reach for {it}", instruction(spec)
    carry = (f"reach for {it}", f"grasp {it}", f"lift {it}")
    if spec.relation == "lift":
        return carry
    where = f"above {_name(spec.reference)}" if spec.reference else f"to the {spec.target}"
    return *carry, f"move {it} {where}", f"release {it}"


def kind_specs(
    kind: tuple[str, str | None], pair: tuple[str, str] | None, vocabulary: Vocabulary
) -> Iterator[TaskSpec]:
    """Every task of a kind (relation, target) with `pair` as its goal object; references are pairs seen in training."""
    relation, target = kind
    if pair is None:
        yield TaskSpec(relation)
    elif relation == "sequence":
        yield drawer_sequence(*pair)
    elif relation in ("push_behind", "push_beside", "put_on"):
        shapes = REFERENCE_SHAPES.get(relation, vocabulary.shapes)
        for reference in vocabulary.seen:
            if reference != pair and reference[1] in shapes:
                yield TaskSpec(relation, *pair, reference=reference)
    else:
        yield TaskSpec(relation, *pair, target=target)


def corpus(vocabulary: Vocabulary) -> Iterator[str]:
    """All training sentences and sub-task phrases of a vocabulary, for training a tokenizer."""
    for kind in vocabulary.kinds:
        pairs = [None] if kind[0] in ("open_drawer", "close_drawer", "press_button") else vocabulary.seen
        for pair in pairs:
            # One reference per object keeps the corpus small; over all objects every reference occurs.
            specs = list(kind_specs(kind, pair, vocabulary))
            spec = specs[(vocabulary.seen.index(pair) if pair else 0) % len(specs)]
            yield from paraphrases(spec)
            yield from subtasks(spec)


def _expand(template: str, spec: TaskSpec, split: Split) -> Iterator[str]:
    """All sentences of a template, the first alternatives first."""
    things: dict[str, tuple[str, ...]] = {}
    if spec.goal is not None:
        things["object"] = (_name(spec.goal),)
    if spec.reference is not None:
        things["reference"] = (_name(spec.reference),)
    if spec.target is not None:
        things["target"] = PHRASES[spec.target][split]
    phrase = parse(template, {name: Phrase(phrases, either=True) for name, phrases in things.items()})
    return map(phrase.sentence, range(phrase.count))


def _joined(spec: TaskSpec, split: Split) -> tuple[str, ...]:
    """Sentences for any other sequence: the steps' own sentences, joined."""
    options = [paraphrases(step, split) for step in spec.steps]
    count, joins = max(map(len, options)), JOINS[split]
    rows = ([option[i % len(option)] for option in options] for i in range(count))
    return tuple(joins[i % len(joins)].join(row) for i, row in enumerate(rows))


def _drawer_sequence_like(spec: TaskSpec) -> TaskSpec | None:
    return drawer_sequence(*spec.goal) if spec.goal else None


def _name(pair: tuple[str, str] | None) -> str:
    return "the " + " ".join(pair or ())

"""How a user may ask: at least 500 templates for every combination of what is given and what is wanted.

A combination is an instruction with the scaffold levels that are written before acting, or a kind of question. Its
first sentence is canonical, what is said at inference; a tenth of the others is held out, by a hash of the sentence.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np

from visuomotor.text.grounding import Question
from visuomotor.text.phrases import Phrase, parse, parse_rules, tidy
from visuomotor.text.scaffold import LEVELS, Words

__all__ = ["COMBINATIONS", "Wording", "corpus", "instruct", "is_held_out", "question_words", "template"]

Wording = Literal["canonical", "train", "heldout"]
HELD_OUT = 0.1
RULES = """
# What the robot is told; <lead> alone asks for actions, a request for levels may follow it.
task = (task|goal|job|order|command|instruction)
who = (the robot|{robot}|the arm|you)
lead = {instruction}
lead = (please|now|next|robot|ok|{robot}), {instruction} [please|now|if you can]
lead = [the|this|your|my] [next|new|current] <task> [is|for <who> is]: {instruction}
lead = (do|perform|execute|follow|complete|carry out) [the|this|your|my] [next|new] <task>: {instruction}
lead = what (should|must|can|does) <who> do [now|next|first]? [the|your] <task>: {instruction}
give = (say|give|write|name|tell|predict|report|state|show|first say)
subtask = [the] [next|current] (sub-task|step|stage)
box = [the] (box|bounding box|place in the image) [of what matters|of the objects]
trajectory = [the] [future|coming] (path|trajectory|track) [of the gripper]
action = [the] [coming|next] (action tokens|discrete actions|actions as tokens)
# Questions about the image.
picture = (image|picture|scene|photo|view|frame)
open = [(look at|consider|see|study|here is|take) (this|the) <picture>:|(in|from) (this|the) <picture>:|question:]
close = [(answer|reply) (briefly|in short|exactly).|please.|be (brief|exact).]
anything = Is anything here?|is there (anything|something|any object|any thing) [to see|in view|here|in the <picture>]?
caption = What is in the image?|what (is|do you see|can be seen|is shown|is visible) (here|there|in the <picture>)?
caption = (describe|list|name|report) (what you see|the things|the objects|what is there) [from left to right].
count = How many {things} are there?|how many {things} (do you see|can you see|are visible|are in view|are shown)?
count = (count|number) the {things}.|what is the number of {things}?|give the number of {things}.
colour = What colour is the {object}?|what is the colour of the {object}?|which colour (is|has) the {object}?
colour = (name|tell|give|say|report) the colour of the {object}.|the {object} is of which colour?
relation = Is the {object} {relation} the {reference}?|is it true that the {object} is {relation} the {reference}?
relation = does the {object} (lie|stand|appear|sit) {relation} the {reference}?
relation = do you see the {object} {relation} the {reference}?
relation = the {object} is {relation} the {reference}, (yes or no|right|true or false|is it so)?
presence = Is there a {object}?|do you see a {object}?|can you see a {object}?
presence = is a {object} (visible|in view|there|shown)?
presence = does the <picture> (show|contain|have) a {object}?|a {object} is there, (yes or no|right|true or false)?
where = Where is the {object}?|where (can I find|do you see|lies|stands) the {object}?
where = (locate|find|point at|detect|box|localise) the {object}.|(give|say|show) (the box|the place) of the {object}.
at = What is at {place}?|what (lies|stands|do you see|is shown) at {place}?|which (object|thing) is at {place}?
at = (name|tell|give) (the object|the thing|what is) at {place}.
nearest = What is nearest to the {object}?|what is (closest to|next to|the neighbour of) the {object}?
nearest = which (object|thing) is (nearest|closest) to the {object}?
nearest = (name|tell) what is (nearest|closest) to the {object}.
left = What is left of the {object}?|what (lies|stands|is seen|is shown) left of the {object}?
left = which (things|objects) are left of the {object}?|(name|list|tell) what is left of the {object}.
right = What is right of the {object}?|what (lies|stands|is seen|is shown) right of the {object}?
right = which (things|objects) are right of the {object}?|(name|list|tell) what is right of the {object}.
"""
_RULES = parse_rules(RULES)
_KINDS = (
    "anything", "caption", "count", "colour", "relation", "presence", "box", "at", "nearest", "left", "right",
)  # fmt: skip


def _robot(levels: Sequence[str]) -> Phrase:
    named = [f"<{level}>" for level in levels]
    listed = ", ".join(named[:-1]) + (" and " if len(named) > 1 else "") + named[-1] if named else ""
    return parse(f"<lead>; <give> {listed}" if named else "<lead>", _RULES)


_LEVELS = [chosen for n in range(len(LEVELS) + 1) for chosen in combinations(LEVELS, n)]
COMBINATIONS: dict[tuple[str, ...], Phrase] = {
    **{("instruction", *levels): _robot(levels) for levels in _LEVELS},
    **{("image", kind): parse(f"<open> <{'where' if kind == 'box' else kind}> <close>", _RULES) for kind in _KINDS},
}


def template(
    combination: tuple[str, ...], wording: Wording = "canonical", rng: np.random.Generator | None = None
) -> str:
    """A template with its {slots}: the canonical one, or with `rng` one of the training or the held-out ones."""
    phrase = COMBINATIONS[combination]
    if wording == "canonical" or rng is None:
        return tidy(phrase.sentence(0))
    while True:
        chosen = tidy(phrase.sentence(int(rng.random() * phrase.count)))
        if is_held_out(combination, chosen) == (wording == "heldout"):
            return chosen


@lru_cache(maxsize=65536)
def is_held_out(combination: tuple[str, ...], sentence: str) -> bool:
    """Whether training never says it; the canonical sentence never is held out."""
    digest = int.from_bytes(hashlib.blake2b(sentence.encode(), digest_size=4).digest(), "little")
    return digest < HELD_OUT * 2**32 and sentence != template(combination)


def instruct(
    instruction: str,
    levels: Sequence[str],
    robot: str,
    wording: Wording = "canonical",
    rng: np.random.Generator | None = None,
) -> str:
    """What a robot is told that has to write `levels` and to act."""
    asked = tuple(level for level in LEVELS if level in levels)
    return _fill(template(("instruction", *asked), wording, rng), {"instruction": instruction, "robot": robot})


def question_words(question: Question, wording: Wording, rng: np.random.Generator | None = None) -> Words:
    """The question's own words, or with `rng` those of a template for its kind."""
    if wording == "canonical" or rng is None:
        return question.ask
    asked = _fill(template(("image", question.kind), wording, rng), question.slots)
    return f"{question.view}: {asked}" if question.view else asked


def corpus() -> list[str]:
    """Every word of the grammar in its surroundings, for training a tokenizer."""
    return sorted({text.strip() for phrase in COMBINATIONS.values() for text in phrase.words() if text.strip()})


def _fill(sentence: str, slots: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: slots[match[1]], sentence)

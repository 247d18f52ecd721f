import re

import numpy as np
import pytest

from visuomotor.text import grounding, scene_questions, templates
from visuomotor.text.phrases import tidy
from visuomotor.text.scaffold import spoken
from visuomotor.text.templates import COMBINATIONS, is_held_out, question_words, template

BOXES = {"red block": (100, 100, 200, 200), "green cup": (400, 100, 500, 200), "blue disc": (700, 300, 760, 340)}
ENOUGH, LOOKED_AT = 500, 3000


def test_every_combination_has_at_least_500_distinct_templates(capsys: pytest.CaptureFixture[str]) -> None:
    counts = {}
    for combination, phrase in COMBINATIONS.items():
        step = max(1, phrase.count // LOOKED_AT)
        distinct = {tidy(phrase.sentence(i)) for i in range(0, phrase.count, step)}
        held = sum(is_held_out(combination, sentence) for sentence in distinct)
        counts[" + ".join(combination)] = (phrase.count, len(distinct))
        assert len(distinct) - held >= ENOUGH, combination
        assert 0.05 < held / len(distinct) < 0.15, combination
    with capsys.disabled():
        print("\ntemplates (all, distinct among those looked at):", counts)


def test_templates_of_a_wording_belong_to_it_and_have_the_right_slots() -> None:
    for combination in COMBINATIONS:
        train, heldout = (
            {template(combination, w, np.random.default_rng(s)) for s in range(20)} for w in ("train", "heldout")
        )
        assert len(train) > 10
        assert len(heldout) > 10
        assert not any(is_held_out(combination, t) for t in train | {template(combination)})
        assert all(is_held_out(combination, t) for t in heldout)
        for text in train | heldout:
            slots = set(re.findall(r"\{(\w+)\}", text))
            assert combination[0] == "image" or "instruction" in slots
            assert combination[0] == "image" or slots <= {"instruction", "robot"}
            assert not re.search(r"[(\[|<>]|  | [,.:;?!]", text), text


def test_the_canonical_prompt_is_the_instruction_with_what_is_asked_for() -> None:
    said = [templates.instruct("open the drawer", levels, "arm") for levels in ((), ("box", "subtask"))]
    assert said == ["open the drawer", "open the drawer; say sub-task and box"]
    rng = np.random.default_rng(1)
    said = {templates.instruct("move {this}", (), "arm", "train", rng) for _ in range(50)}
    assert all("move {this}" in s and "{robot}" not in s for s in said)
    assert any("arm" in s for s in said)


def test_every_kind_of_question_has_templates_and_keeps_its_things() -> None:
    rng = np.random.default_rng(0)
    kinds = {**scene_questions.KINDS, "anything": lambda b, v, r: grounding.exists({}, {}, r)}
    for kind, make in kinds.items():
        question = make(BOXES, dict.fromkeys(BOXES, 0.5), rng)
        assert question is not None
        assert question.kind == kind
        canonical = template(("image", kind))
        for slot, text in question.slots.items():
            canonical = canonical.replace(f"{{{slot}}}", text)
        assert canonical == spoken(question.ask)
        for _ in range(10):
            assert all(text in question_words(question, "heldout", rng) for text in question.slots.values())


def test_questions_on_another_view_name_it_in_any_wording() -> None:
    rng = np.random.default_rng(0)
    (question,) = grounding.questions(BOXES, dict.fromkeys(BOXES, 0.5), rng, 1, "wrist")
    assert str(question_words(question, "train", rng)).startswith("wrist: ")


def test_the_corpus_has_every_word() -> None:
    words = set(re.findall(r"\w+", " ".join(templates.corpus())))
    for combination in COMBINATIONS:
        text = template(combination, "train", np.random.default_rng(0))
        assert set(re.findall(r"\w+", text)) <= words

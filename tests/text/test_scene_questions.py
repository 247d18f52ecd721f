import numpy as np
import pytest

from visuomotor.text import scene_questions
from visuomotor.text.grounding import Question
from visuomotor.text.scene_questions import KINDS, ask, check_kinds

BOXES = {
    "blue cup": (600, 100, 700, 200),
    "orange cup": (100, 100, 200, 200),
    "red block": (400, 120, 500, 220),
    "left bowl": (300, 500, 420, 600),
}
SHARES = {"blue cup": 0.3, "orange cup": 0.3, "red block": 0.3, "green block": 0.3, "gray pinch": 0.3, "left bowl": 1.0}


def asked(kind: str, boxes: dict[str, tuple[int, int, int, int]] = BOXES, seeds: int = 200) -> list[Question]:
    found = [KINDS[kind](boxes, SHARES, np.random.default_rng(s)) for s in range(seeds)]
    return [q for q in found if q is not None]


def test_captions_name_what_comes_and_goes_from_left_to_right() -> None:
    (caption,) = asked("caption", seeds=1)
    assert caption.answer == ["an orange cup, a red block and a blue cup"]
    assert asked("caption", {"red block": BOXES["red block"]}, 1)[0].answer == ["a red block"]
    assert asked("caption", {"left bowl": BOXES["left bowl"]}, 1)[0].answer == ["nothing"]


def test_counts_are_of_nouns_also_of_absent_ones() -> None:
    found = {str(q.ask[0]): q.answer[0] for q in asked("count")}
    assert found == {
        "How many cups are there?": "2", "How many blocks are there?": "1", "How many pinches are there?": "0",
    }  # fmt: skip


def test_colours_are_asked_for_where_the_noun_is_alone() -> None:
    assert {(str(q.ask[0]), q.answer[0]) for q in asked("colour")} == {("What colour is the block?", "red")}
    assert not asked("colour", {n: b for n, b in BOXES.items() if n != "red block"})  # "left" is no colour


def test_relations_are_true_clear_and_balanced() -> None:
    found = asked("relation", seeds=600)
    sides = {
        "left of": lambda a, b: a[0] + a[2] < b[0] + b[2], "right of": lambda a, b: a[0] + a[2] > b[0] + b[2],
        "above": lambda a, b: a[1] + a[3] < b[1] + b[3], "below": lambda a, b: a[1] + a[3] > b[1] + b[3],
    }  # fmt: skip
    for question in found:
        slots = question.slots
        true = sides[slots["relation"]](BOXES[slots["object"]], BOXES[slots["reference"]])
        assert question.answer == ["yes" if true else "no"]
    assert 0.44 < np.mean([q.answer == ["yes"] for q in found]) < 0.56
    assert {q.slots["relation"] for q in found} == set(sides)
    vertical = {(q.slots["object"], q.slots["reference"]) for q in found if q.slots["relation"] in ("above", "below")}
    assert ("red block", "blue cup") not in vertical  # 20 apart, 100 high


def test_kinds_are_drawn_by_weight_and_no_question_twice() -> None:
    rng = np.random.default_rng(0)
    kinds = [q.kind for _ in range(400) for q in ask(BOXES, SHARES, rng, {"box": 3.0, "count": 1.0}, 1)]
    assert 0.7 < np.mean([k == "box" for k in kinds]) < 0.8
    many = ask(BOXES, SHARES, rng, {"caption": 1.0, "box": 1.0}, 40)
    assert sorted(q.kind for q in many) == ["box"] * 3 + ["caption"]


def test_what_an_image_does_not_allow_is_replaced() -> None:
    rng = np.random.default_rng(0)
    assert ask({}, SHARES, rng, {"colour": 1.0, "box": 1.0}, 3) == []
    alone = {"left bowl": BOXES["left bowl"]}
    assert {q.kind for q in ask(alone, SHARES, rng, {"colour": 9.0, "box": 1.0}, 3)} == {"box"}


@pytest.mark.parametrize(
    ("kinds", "message"), [({"counts": 1.0}, "'count'"), ({"box": 0.0}, "weight 0.0"), ({}, "No kind")]
)
def test_wrong_kinds_are_refused(kinds: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_kinds(kinds)


def test_the_words_of_questions_are_in_the_corpus() -> None:
    said = " ".join(scene_questions.PHRASES)
    assert all(words in said for words in ("How many", "What colour is the", "left of", "below", "an orange"))

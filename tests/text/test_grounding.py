import numpy as np
import pytest

from visuomotor.text import grounding

BOXES = {
    "red block": (100, 100, 200, 200),
    "green cup": (400, 100, 500, 200),
    "blue bowl": (600, 100, 900, 500),
    "blue disc": (700, 300, 760, 340),
}
SHARES = dict.fromkeys(BOXES, 0.5)


def test_where_gives_the_box() -> None:
    q = grounding.where("green cup", BOXES)
    assert q.ask == ["Where is the green cup?"]
    assert q.answer == ["Box: green cup", 400, 100, 500, 200]


@pytest.mark.parametrize(
    ("relation", "name", "answer"),
    [
        (grounding.left_of, "green cup", "red block"),
        (grounding.left_of, "red block", "nothing"),
        (grounding.right_of, "green cup", "blue disc, blue bowl"),
        (grounding.nearest, "red block", "green cup"),
        (grounding.nearest, "blue disc", "blue bowl"),
        (grounding.what_at, "blue disc", "blue disc"),
    ],
)
def test_relations_are_exact(relation: object, name: str, answer: str) -> None:
    assert relation(name, BOXES).answer == [answer]  # type: ignore[operator]


def test_the_smallest_box_at_a_point_answers() -> None:
    boxes = {"bowl": (0, 0, 100, 100), "block": (40, 40, 60, 60)}
    assert grounding.what_at("bowl", boxes).answer == ["block"]


def test_existence_is_balanced_and_true() -> None:
    rng = np.random.default_rng(0)
    vocabulary = [*BOXES, "pink can", "white bar"]
    answers = []
    for _ in range(400):
        q = grounding.exists(BOXES, vocabulary, rng)
        name = str(q.ask[0]).removeprefix("Is there a ").removesuffix("?")
        assert q.answer == ["yes" if name in BOXES else "no"]
        answers.append(q.answer[0])
    assert 140 < answers.count("yes") < 260


def test_count_repetition_and_seed() -> None:
    chosen = [grounding.questions(BOXES, SHARES, np.random.default_rng(5), 12) for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert len(chosen[0]) == 12
    asked = [q.ask[0] for q in chosen[0] if str(q.ask[0]).startswith("Where")]
    assert len(set(asked[:4])) == len(asked[:4])  # no object twice before each was asked for


def test_box_questions_ask_once_for_each_thing_that_comes_and_goes() -> None:
    shares = dict.fromkeys(BOXES, 0.2) | {"blue bowl": 1.0}
    asked = grounding.box_questions(BOXES, shares, np.random.default_rng(0), 9)
    assert sorted(q.ask[0] for q in asked) == sorted(f"Where is the {n}?" for n in BOXES if n != "blue bowl")
    assert all(q.answer[1:] == list(BOXES[q.answer[0].removeprefix("Box: ")]) for q in asked)
    assert len(grounding.box_questions(BOXES, shares, np.random.default_rng(0), 2)) == 2
    furniture = grounding.box_questions({"blue bowl": BOXES["blue bowl"]}, shares, np.random.default_rng(0), 3)
    assert [q.ask[0] for q in furniture] == ["Where is the blue bowl?"]
    assert grounding.box_questions({}, shares, np.random.default_rng(0), 3)[0].answer == ["no"]


def test_an_empty_image_is_asked_about_absent_objects() -> None:
    questions = grounding.questions({}, {"red block": 0.5}, np.random.default_rng(0), 3)
    assert [q.answer for q in questions] == [["no"]] * 3


def test_questions_on_another_view_name_it() -> None:
    plain = grounding.questions(BOXES, SHARES, np.random.default_rng(1), 6)
    wrist = grounding.questions(BOXES, SHARES, np.random.default_rng(1), 6, "wrist")
    assert [q.ask for q in wrist] == [["wrist: ", *q.ask] for q in plain]
    assert [q.answer for q in wrist] == [q.answer for q in plain]


def test_objects_that_come_and_go_are_asked_for_first() -> None:
    names = list(BOXES)
    shares = {name: 1.0 for name in names} | {names[-1]: 0.2}
    first = [
        next(q for q in grounding.questions(BOXES, shares, np.random.default_rng(s), 8) if "Where" in str(q.ask[0]))
        for s in range(200)
    ]
    assert sum(names[-1] in str(q.ask[0]) for q in first) > 120

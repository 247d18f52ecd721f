import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from visuomotor.evaluation.answers import Answer, KindScore, box_of, intersection_over_union, score


def answer(kind: str, expected: str, given: str) -> Answer:
    return Answer(kind=kind, question="?", expected=expected, given=given)


def test_exact_match_forgives_case_and_spaces_only() -> None:
    assert answer("count", "3", " 3 ").exact
    assert answer("caption", "a cup and a Bowl", "A  cup and a bowl").exact
    assert not answer("count", "3", "13").exact
    assert answer("count", "3", "3").iou is None


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("Box: red block 1 22 333 4", (1, 22, 333, 4)),
        ("1 2 3 4", (1, 2, 3, 4)),
        ("Box: block 9 1 2 3 4", (1, 2, 3, 4)),
        ("Box: red block 1 2 3", None),
        ("1 2 3 4 left", None),
        ("", None),
    ],
)
def test_boxes_are_the_last_four_numbers(text: str, box: tuple[int, ...] | None) -> None:
    assert box_of(text) == box


def test_overlap_equals_that_of_filled_pixels() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        corners = rng.integers(0, 20, (2, 2))
        boxes = [tuple(box) for box in np.hstack([corners, corners + rng.integers(1, 20, (2, 2))]).tolist()]
        masks = np.zeros((2, 40, 40), bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
            mask[y1:y2, x1:x2] = True
        expected = (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()
        assert intersection_over_union(*boxes) == pytest.approx(expected)
    assert intersection_over_union((3, 3, 3, 3), (3, 3, 3, 3)) == 1.0
    assert intersection_over_union((9, 9, 3, 3), (0, 0, 5, 5)) == 0.0  # turned round: it covers nothing


def test_scores_by_kind() -> None:
    answers = [
        answer("box", "Box: a 0 0 10 10", "Box: a 0 0 10 10"),
        answer("box", "Box: a 0 0 10 10", "Box: a 0 0 10 4"),
        answer("box", "Box: a 0 0 10 10", "nothing"),
        answer("count", "2", "2"),
    ]
    whole, box, count = score(answers)
    assert (whole.kind, box.kind, count.kind) == ("all", "box", "count")
    assert (whole.exact.successes, whole.exact.n, whole.mean_iou) == (2, 4, None)
    assert (box.exact.successes, box.exact.n) == (1, 3)
    assert box.mean_iou == pytest.approx((1 + 0.4 + 0) / 3)
    assert box.over_half is not None
    assert box.over_half.successes == 1
    low, high = proportion_confint(1, 3, method="wilson")
    assert box.to_json()["exact"]["wilson_95"] == {"low": pytest.approx(low), "high": pytest.approx(high)}
    assert [KindScore.from_json(s.to_json()) for s in (whole, box, count)] == [whole, box, count]
    assert [s.kind for s in score(answers[3:])] == ["count"]

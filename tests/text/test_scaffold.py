import numpy as np
import pytest

from tests.data.fakes import CORPUS
from visuomotor.contract import TextKind
from visuomotor.text import scaffold
from visuomotor.text.dm0 import DM0Layout
from visuomotor.text.layout import TextRequest
from visuomotor.text.plain import PlainLayout
from visuomotor.text.tokenizer import TextTokenizer

TOKENIZER = TextTokenizer.train([*CORPUS, *scaffold.HEADERS.values()], 800)
LAYOUT = PlainLayout(TOKENIZER)
BOXES = {"green disc": (600, 210, 660, 270), "red block": (1, 20, 300, 1000)}


def written(pieces: scaffold.Pieces) -> str:
    return TOKENIZER.decode(scaffold.text_of(pieces)[0])


def test_levels_read_as_the_docstring_says() -> None:
    pieces = LAYOUT.prompt(TextRequest(instruction=" put the red\nblock  away "))
    pieces += LAYOUT.level("subtask", "reach for the red block")
    content = scaffold.box_content(BOXES, "put the red block away")
    pieces += LAYOUT.level("box", content)
    pieces += LAYOUT.level("trajectory", scaffold.trajectory_content([(1, 2), (3, 4)]))
    text = written(pieces)
    assert text == (
        "put the red block away\nSubtask: reach for the red block\nBox: red block 1 20 300 1000\n"
        "Trajectory: main gripper: (1,2) (3,4)\n"
    )
    assert scaffold.parse_levels(text) == {
        "subtask": "reach for the red block",
        "box": "red block 1 20 300 1000",
        "trajectory": "main gripper: (1,2) (3,4)",
    }


def test_boxes_and_points_are_read_back() -> None:
    content = "".join(str(c) if isinstance(c, str) else f" {c}" for c in scaffold.box_content(BOXES, "red block"))
    assert scaffold.parse_boxes(content) == {"red block": (1, 20, 300, 1000)}
    assert scaffold.parse_boxes("cup 2 1 2 3 4; broken 1 2 3; 1 2 3 4; lid 5 6 7 8") == {
        "cup 2": (1, 2, 3, 4),
        "lid": (5, 6, 7, 8),
    }
    assert scaffold.parse_points(scaffold.trajectory_content([(1, 2), (30, 4)])) == [(1, 2), (30, 4)]
    assert scaffold.parse_boxes("") == {}


def test_targets_are_content_and_newline_but_neither_prompt_nor_header() -> None:
    pieces = LAYOUT.prompt(TextRequest(instruction="open the drawer"))
    pieces += LAYOUT.level("subtask", "reach")
    ids, kinds, targets, _ = scaffold.text_of(pieces)
    assert TOKENIZER.decode(ids[targets]) == " reach\n"
    assert TOKENIZER.decode(ids[~targets]) == "open the drawer\nSubtask:"
    assert set(kinds[targets]) == {TextKind.SUBTASK}


def test_action_line_is_time_major_and_ends_with_a_newline() -> None:
    bins = np.array([[0, 1], [253, 254]])
    ids, kinds, targets, _ = scaffold.text_of(LAYOUT.level("action", bins))
    np.testing.assert_array_equal(ids[targets][:-1] - TOKENIZER.action_start, [0, 1, 253, 254])
    assert ids[-1] == TOKENIZER.newline_id
    assert (kinds == TextKind.ACTION).all()


def test_boxes_follow_the_order_of_the_words() -> None:
    content = scaffold.box_content(BOXES, "push the red block behind the green disc")
    assert content == [" red block", 1, 20, 300, 1000, "; green disc", 600, 210, 660, 270]
    assert scaffold.box_content(BOXES, "open the drawer") == []


def test_trajectory_has_at_most_25_points() -> None:
    assert scaffold.trajectory_content([(1, 1)] * 40).count("(") == 25


@pytest.mark.parametrize(
    ("levels", "end"), [((), "USER: go "), (("action",), "USER: go "), (("box", "action"), "USER: go ASSISTANT: ")]
)
def test_dm0_prompt_pieces_are_encoded_separately(levels: tuple[str, ...], end: str) -> None:
    pieces = DM0Layout(TOKENIZER).prompt(TextRequest(instruction="go", levels=levels))
    assert written(pieces) == scaffold.DM0_SYSTEM + end
    np.testing.assert_array_equal(pieces[1].ids, TOKENIZER.encode("USER: "))

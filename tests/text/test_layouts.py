"""Layouts as one contract, and the rule that only text/, presets and recipes speak of one by its name."""

import ast
from pathlib import Path

import numpy as np
import pytest

from tests.data.fakes import CORPUS
from visuomotor.data.augment import AugmentConfig
from visuomotor.data.config import ProcessorConfig
from visuomotor.text import scaffold
from visuomotor.text.grammar import action_grammar
from visuomotor.text.layout import TextLayout, TextRequest, lay_out
from visuomotor.text.layouts import LAYOUTS, find_layout
from visuomotor.text.tokenizer import TextTokenizer

PACKAGE = Path(__file__).parents[2] / "src" / "visuomotor"
SPEAKERS = {"text", "recipes", "studies"}  # and models/NAME/, whose presets choose a layout
WORDS = TextTokenizer.train([*CORPUS, *scaffold.FIXED_TEXT], 800)
INSTRUCTION = "put the red block into the left bowl"
CONTENTS = {
    "subtask": "reach for the red block",
    "box": [" red block", 1, 2, 3, 4],
    "trajectory": "main gripper: (1,2)",
}


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> TextLayout:
    kind = find_layout(request.param)
    return kind(WORDS.with_special_tokens(kind.special_tokens))


def text_request(layout: TextLayout, **fields: object) -> TextRequest:
    contents = {level: CONTENTS[level] for level in layout.levels if level in CONTENTS}
    state = np.array([-0.5, 0.25])
    return TextRequest(instruction=INSTRUCTION, views=2, state=state, levels=layout.levels, contents=contents, **fields)  # type: ignore[arg-type]


def test_observations_begin_as_samples_do(layout: TextLayout) -> None:
    sample, _, targets, _ = scaffold.text_of(lay_out(layout, text_request(layout, complete=True)))
    observation = scaffold.text_of(lay_out(layout, text_request(layout)))[0]
    np.testing.assert_array_equal(sample[: len(observation)], observation)
    assert targets[len(observation) :].all()
    assert targets.any() == bool(layout.levels)


def test_a_header_is_the_first_that_its_level_has(layout: TextLayout) -> None:
    for level in layout.levels:
        content = np.array([[0, 1]]) if level == "action" else CONTENTS[level]
        header = [i for piece in layout.header(level) for i in piece.ids.tolist()]
        ids, _, targets, _ = scaffold.text_of(layout.level(level, content))
        assert ids[: len(header)].tolist() == header
        assert not targets[: len(header)].any()
        assert targets[len(header) :].all()


def test_what_is_written_is_read_back(layout: TextLayout) -> None:
    tokenizer = WORDS.with_special_tokens(layout.special_tokens)
    for level in (level for level in layout.levels if level in CONTENTS):
        header = sum(len(piece.ids) for piece in layout.header(level))
        ids = scaffold.text_of(layout.level(level, CONTENTS[level]))[0][header:]
        assert layout.parse(tokenizer.decode(ids), level) == {level: scaffold.spoken(CONTENTS[level]).strip()}
        grammar = layout.grammar(level, 1000, (), lambda: action_grammar(tokenizer, 2, [1]))
        assert grammar is None or grammar.accepts(ids)


def test_a_level_that_a_layout_lacks_is_refused_by_name(layout: TextLayout) -> None:
    for level in (level for level in scaffold.LEVELS if level not in layout.levels):
        with pytest.raises(ValueError, match=f"'{layout.name}'.*'{level}'"):
            layout.header(level)
        with pytest.raises(ValueError, match=f"'{layout.name}'.*'{level}'"):
            lay_out(layout, TextRequest(instruction=INSTRUCTION, state=np.zeros(2), contents={level: "reach"}))


@pytest.mark.parametrize(("name", "meant"), [("qwen2-vl", "qwen2_vl"), ("dm_0", "dm0"), ("plan", "plain")])
def test_an_unknown_layout_is_answered_with_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"no text layout '{name}'. Did you mean '{meant}'"):
        ProcessorConfig(prompt=name)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_only_layouts_without_coordinates_turn_pictures(name: str) -> None:
    crop = AugmentConfig(crop=0.1)
    if find_layout(name).has_coordinates:
        with pytest.raises(ValueError, match="do not move boxes and points"):
            ProcessorConfig(prompt=name, levels={}, augment=crop)
    else:
        assert ProcessorConfig(prompt=name, levels={}, augment=crop).augment == crop


def compared_layouts(source: str) -> set[str]:
    """Names of layouts that a piece of code compares something with, by operators or in `match`."""
    compared: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            compared += [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            compared.append(node.value)
    constants = {n.value for part in compared for n in ast.walk(part) if isinstance(n, ast.Constant)}
    return constants & set(LAYOUTS)


@pytest.mark.parametrize(
    "source",
    ['a == "dm0"', '"dm0" != a', 'a in ("x", "dm0")', 'a not in {"dm0": 1}', 'match a:\n    case "dm0":\n        pass'],
)
def test_comparisons_are_recognised(source: str) -> None:
    assert compared_layouts(source) == {"dm0"}
    assert not compared_layouts(source.replace("dm0", "other"))
    assert not compared_layouts('Config(prompt="dm0")')


def test_nothing_outside_text_compares_the_name_of_a_layout() -> None:
    compared = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        preset = parts[0] == "models" and len(parts) > 2
        if parts[0] not in SPEAKERS and not preset and (names := compared_layouts(path.read_text())):
            compared["/".join(parts)] = sorted(names)
    assert not compared, f"Ask the layout instead of comparing its name: {compared}"

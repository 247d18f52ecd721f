import re

import numpy as np
import pytest
import torch

from tests.data.fakes import CORPUS
from visuomotor.text import scaffold
from visuomotor.text.action_tokens import BINS
from visuomotor.text.automaton import Automaton, Grammar
from visuomotor.text.grammar import action_grammar, level_grammar
from visuomotor.text.plain import PlainLayout
from visuomotor.text.tokenizer import TextTokenizer

WORDS = [*CORPUS, *scaffold.FIXED_TEXT]
COARSE = TextTokenizer.train(WORDS, 800, digits=2), 99
FINE = TextTokenizer.train(WORDS, 800), 1000
NUMBER = r"(0|[1-9]\d{0,2}|1000)"
SHAPES = {
    "subtask": r"[^\n]+",
    "box": rf"( [^ \d\n;]+)+( {NUMBER}){{4}}(;( [^ \d\n;]+)+( {NUMBER}){{4}})*",
    "trajectory": rf" main gripper: \({NUMBER},{NUMBER}\)( \({NUMBER},{NUMBER}\)){{0,24}}",
}


def follow(grammar: Grammar, seed: int, room: int) -> list[list[int]]:
    """What eight rows of random logits write under a grammar, each up to its newline."""
    generator = torch.Generator().manual_seed(seed)
    states, rows, done = torch.zeros(8, dtype=torch.int64), [[] for _ in range(8)], [False] * 8
    for left in range(room, 0, -1):
        logits = torch.randn(8, len(grammar.token_class) + 5, generator=generator)  # a model may have unused ids
        token = grammar.constrain(logits, states, left).argmax(-1)
        for row, t in enumerate(token.tolist()):
            if not done[row]:
                rows[row].append(t)
        states = grammar.advance(states, token.clamp_max(len(grammar.token_class) - 1))
        done = [d or bool(grammar.distance[s] == 0) for d, s in zip(done, states, strict=True)]
    return rows


@pytest.mark.parametrize("level", ["subtask", "box", "trajectory"])
@pytest.mark.parametrize("kind", [COARSE, FINE], ids=["coarse", "fine"])
def test_whatever_the_model_wants_a_level_stays_well_formed(level: str, kind: tuple[TextTokenizer, int]) -> None:
    tokenizer, largest = kind
    grammar = level_grammar(level, tokenizer, largest)
    for room in (grammar.shortest, grammar.shortest + 7, 60):
        for ids in follow(grammar, room, room):
            text = tokenizer.decode(ids)
            assert text.endswith("\n")
            assert not set(ids) & {tokenizer.pad_id, tokenizer.eos_id}
            assert not any(tokenizer.action_start <= i < tokenizer.action_start + BINS for i in ids)
            assert re.fullmatch(SHAPES[level], text[:-1]), repr(text)
            if level != "subtask":
                assert max(map(int, re.findall(r"\d+", text))) <= largest
            assert grammar.accepts(ids)


@pytest.mark.parametrize("kind", [COARSE, FINE], ids=["coarse", "fine"])
def test_the_lines_of_training_are_well_formed(kind: tuple[TextTokenizer, int]) -> None:
    tokenizer, largest = kind
    rng = np.random.default_rng(0)
    boxes = {name: tuple(rng.integers(0, largest + 1, 4).tolist()) for name in ("red block", "cup")}
    points = [tuple(rng.integers(0, largest + 1, 2).tolist()) for _ in range(30)]
    contents = {
        "subtask": "reach for the unheard-of thing, 2 cm away",
        "box": scaffold.box_content(boxes, "push the red block into the cup"),  # type: ignore[arg-type]
        "trajectory": scaffold.trajectory_content(points),  # type: ignore[arg-type]
    }
    for level, content in contents.items():
        ids = PlainLayout(tokenizer).level(level, content)[1].ids
        assert level_grammar(level, tokenizer, largest).accepts(ids)
        assert not level_grammar(level, tokenizer, largest).accepts(ids[:-1])


@pytest.mark.parametrize(
    ("level", "text"),
    [
        ("box", " red block 1 2 3\n"),
        ("box", " red block 1 2 3 4 5\n"),
        ("box", " red block 1 2 3 1001\n"),
        ("box", " 1 2 3 4\n"),
        ("trajectory", " main gripper: (1,2) (3)\n"),
        ("trajectory", " left gripper: (1,2)\n"),
        ("subtask", "\n"),
    ],
)
def test_what_is_not_well_formed_is_refused(level: str, text: str) -> None:
    tokenizer, largest = FINE
    assert not level_grammar(level, tokenizer, largest).accepts(tokenizer.encode(text))


def test_boxes_may_be_limited_to_names_also_such_that_begin_alike() -> None:
    tokenizer, largest = COARSE
    grammar = level_grammar("box", tokenizer, largest, names=("block", "block 2", "red block"))
    for text in (" block 1 2 3 4\n", " block 2 1 2 3 4\n", " red block 1 2 3 4; block 5 6 7 8\n"):
        assert grammar.accepts(tokenizer.encode(text)), text
    for text in (" cup 1 2 3 4\n", " block 1 2 3\n", " red 1 2 3 4\n", " block 2 3 1 2 3 4\n"):
        assert not grammar.accepts(tokenizer.encode(text)), text
    assert all(re.match(r" (red )?block( 2)?( \d+){4}", tokenizer.decode(ids)) for ids in follow(grammar, 0, 20))


def test_action_lines_hold_exactly_what_a_chunk_needs() -> None:
    tokenizer, _ = COARSE
    for ids in follow(action_grammar(tokenizer, 6, [1] * BINS), 0, 9):
        assert ids[-1] == tokenizer.newline_id
        assert len(ids) == 7
        assert all(tokenizer.action_start <= i < tokenizer.action_start + BINS for i in ids[:-1])
    lengths = [1, 2, 3]
    grammar = action_grammar(tokenizer, 7, lengths)
    assert grammar.shortest == 4  # 3 + 3 + 1 and the newline
    for ids in follow(grammar, 1, 8):
        assert sum(lengths[i - tokenizer.action_start] for i in ids[:-1]) == 7


def test_states_that_continue_alike_are_one() -> None:
    build = Automaton()
    end = build.state({0: build.END})
    many = build.words([[1, a, b] for a in range(10) for b in range(10)], end)
    grammar = build.grammar(many, 20)
    assert len(grammar.next_state) == 6  # before 1, before a, before b, before the end, the end, nowhere
    assert grammar.accepts([1, 3, 7, 0])
    assert not grammar.accepts([1, 3, 0])
    with pytest.raises(ValueError, match="no grammar of words for level 'action'"):
        level_grammar("action", *COARSE)

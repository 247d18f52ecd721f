"""What a scaffold level may say, as a grammar over token ids, and the lines that a policy asks a model to write.

    subtask      any words
    box          NAME x1 y1 x2 y2, more of them after ";"
    trajectory   main gripper: (x,y) (x,y) ..., at most 25 points
    action       bins of all steps and dimensions, or FAST tokens that stand for exactly as many coefficients

Each ends with the newline. Words are any tokens of text but special ones; numbers are written as training has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from visuomotor.text.automaton import Automaton, Grammar
from visuomotor.text.scaffold import MAX_POINTS
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["Line", "action_grammar", "level_grammar"]

SPACE = "Ġ"  # as byte-level vocabularies spell it


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One line of text that a model is asked to write.

    header   int64[H] ids that begin it; `given`: the batch's text ends with them already, otherwise they are forced
    length   most tokens after the header, the newline included
    turn     0: the line sees all text before it; else a turn of its own (see contract.Batch.text_turn)
    grammar  what it may say; None: anything
    """

    header: Int64[Tensor, "H"]
    length: int
    given: bool = False
    turn: int = 0
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"A line of at most {self.length} tokens cannot be written; allow at least 1.")
        if self.grammar is not None and self.length < self.grammar.shortest:
            raise ValueError(
                f"A line of at most {self.length} tokens cannot be well-formed, which takes {self.grammar.shortest}; "
                f"raise max_new_tokens, or set constrain=False."
            )

    def to(self, device: torch.device | str) -> "Line":
        grammar = None if self.grammar is None else self.grammar.to(device)
        return replace(self, header=self.header.to(device), grammar=grammar)


def level_grammar(level: str, tokenizer: TextTokenizer, largest: int = 1000, names: Sequence[str] = ()) -> Grammar:
    """Grammar of a level of text.

    Args:
        largest: largest coordinate that texts have.
        names: names that boxes may have; without any, all words without digits.
    """
    build = Automaton()
    end = build.state({tokenizer.newline_id: build.END})
    if level == "subtask":
        start = _any_words(build, end, tokenizer)
    elif level == "box":
        start = _boxes(build, end, tokenizer, largest, names)
    elif level == "trajectory":
        start = _trajectory(build, end, tokenizer, largest)
    else:
        raise ValueError(f"There is no grammar of words for level {level!r}; choose subtask, box or trajectory.")
    return build.grammar(start, tokenizer.vocab_size)


def action_grammar(tokenizer: TextTokenizer, coefficients: int, lengths: Sequence[int]) -> Grammar:
    """`coefficients` numbers in action tokens, the i-th of which stands for `lengths[i]` numbers (bins: one each)."""
    build, first = Automaton(), tokenizer.require_actions()
    states = [build.state({tokenizer.newline_id: build.END})]
    for missing in range(1, coefficients + 1):
        fitting = {first + i: states[missing - n] for i, n in enumerate(lengths) if n <= missing}
        states.append(build.state(fitting))
    return build.grammar(states[-1], tokenizer.vocab_size)


def _any_words(build: Automaton, follow: int, tokenizer: TextTokenizer) -> int:
    """At least one token of text, then `follow`."""
    inside = build.open()
    anything = build.state(dict.fromkeys(tokenizer.text_tokens, inside))
    build.close(inside, build.either(anything, follow))
    return anything


def _any_name(build: Automaton, follow: int, tokenizer: TextTokenizer, starts: set[int]) -> int:
    """Words behind single spaces, without digits and ";", then `follow`, whose first tokens are `starts`."""
    plain = {
        i: text
        for i, text in tokenizer.text_tokens.items()
        if i not in starts and not any(c.isdigit() or c == ";" for c in text)
    }
    inside = build.open()
    after_space = build.state({i: inside for i, text in plain.items() if not text.startswith(SPACE)})
    spaces = {i: after_space for i, text in plain.items() if text == SPACE}
    spaced = {i: inside for i, text in plain.items() if text.startswith(SPACE) and text.strip(SPACE)}
    build.close(inside, build.either(build.state({**build.edges(after_space), **spaced, **spaces}), follow))
    return build.state({**spaced, **spaces})


def _boxes(build: Automaton, end: int, tokenizer: TextTokenizer, largest: int, names: Sequence[str]) -> int:
    numbers = [tokenizer.numbers[n] for n in range(largest + 1)]
    another = build.open()
    follow = build.either(end, build.words([tokenizer.encode(";")], another))
    for _ in range(4):
        follow = build.words(numbers, follow)
    if names:
        start = build.words([tokenizer.encode(f" {name}") for name in names], follow)
    else:
        start = _any_name(build, follow, tokenizer, {int(ids[0]) for ids in numbers})
    build.close(another, start)
    return start


def _trajectory(build: Automaton, end: int, tokenizer: TextTokenizer, largest: int) -> int:
    numbers = [tokenizer.encode(str(n)) for n in range(largest + 1)]
    last = build.words([tokenizer.encode(")")], end)
    follow = last
    for left in range(MAX_POINTS):
        start = build.words(numbers, build.words([tokenizer.encode(",")], build.words(numbers, follow)))
        if left < MAX_POINTS - 1:
            follow = build.either(last, build.words([tokenizer.encode(") (")], start))
    return build.words([tokenizer.encode(" main gripper: (")], start)

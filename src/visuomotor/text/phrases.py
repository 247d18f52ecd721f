"""Sentences in a few lines of text: `(a|b)` is either, `[a|b]` may be left out, `<name>` is an earlier rule.

`{slot}` stays, to be filled later. Sentences are numbered, so that one of thousands is drawn without writing them all:
0 takes every first alternative and leaves every option out.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

__all__ = ["Phrase", "parse", "parse_rules", "tidy"]

TOKEN = re.compile(r"[()\[\]|]|<\w+>|[^()\[\]|<]+")
CLOSING = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class Phrase:
    """`parts` one after the other, or, where `either`, one of them."""

    parts: tuple["Phrase | str", ...]
    either: bool = False

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Number of sentences of each part."""
        return tuple(1 if isinstance(part, str) else part.count for part in self.parts)

    @cached_property
    def count(self) -> int:
        """Number of sentences; one that can be made in two ways counts twice."""
        return sum(self.counts) if self.either else math.prod(self.counts)

    def sentence(self, index: int) -> str:
        """Sentence `index` of `count`; later parts change first."""
        if self.either:
            for part, count in zip(self.parts, self.counts, strict=True):
                if index < count:
                    return part if isinstance(part, str) else part.sentence(index)
                index -= count
            raise IndexError(f"This phrase has {self.count} sentences.")
        words = []
        for part, count in zip(reversed(self.parts), reversed(self.counts), strict=True):
            index, own = divmod(index, count)
            words.append(part if isinstance(part, str) else part.sentence(own))
        return "".join(reversed(words))

    def words(self) -> Iterator[str]:
        """Every literal text in it, once per place."""
        for part in self.parts:
            yield from (part,) if isinstance(part, str) else part.words()


def parse(text: str, rules: Mapping[str, Phrase]) -> Phrase:
    """The phrase that `text` describes; ValueError on an unknown rule or an unbalanced bracket."""
    tokens = TOKEN.findall(text)
    phrase, rest = _alternatives(tokens, 0, "", rules, text)
    if rest < len(tokens):
        raise ValueError(f"The grammar's text {text!r} has a {tokens[rest]!r} that nothing opens.")
    return phrase


def parse_rules(text: str) -> dict[str, Phrase]:
    """{name: phrase} of lines `name = text`; a name that stands in several lines has them as alternatives."""
    found: dict[str, Phrase] = {}
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, right = (side.strip() for side in line.partition(" = "))
            known = found[name].parts if name in found else ()
            found[name] = Phrase((*known, parse(right, found)), either=True)
    return found


def tidy(sentence: str) -> str:
    """One space between words and none before punctuation: what left-out options leave behind."""
    return re.sub(r" +([,.:;?!])", r"\1", " ".join(sentence.split()))


def _alternatives(tokens: list[str], at: int, end: str, rules: Mapping[str, Phrase], text: str) -> tuple[Phrase, int]:
    """Alternatives from token `at` to the bracket `end`, and where it stands."""
    found: list[Phrase] = []
    parts: list[Phrase | str] = []
    while at < len(tokens) and tokens[at] not in (")", "]"):
        token = tokens[at]
        if token in CLOSING:
            inner, at = _alternatives(tokens, at + 1, CLOSING[token], rules, text)
            parts.append(Phrase(("", inner), either=True) if token == "[" else inner)
        elif token == "|":
            found.append(Phrase(tuple(parts)))
            parts = []
        elif token[0] == "<":
            if token[1:-1] not in rules:
                raise ValueError(f"The grammar's text {text!r} uses {token}, which no earlier line defines.")
            parts.append(rules[token[1:-1]])
        else:
            parts.append(token)
        at += 1
    if end and (at == len(tokens) or tokens[at] != end):
        raise ValueError(f"The grammar's text {text!r} lacks a {end!r}.")
    return Phrase((*found, Phrase(tuple(parts))), either=True), at

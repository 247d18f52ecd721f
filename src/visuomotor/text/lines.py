"""Scaffold levels as lines with headers, as the layouts `plain` and `dm0` share them (see scaffold.py)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.text.automaton import Grammar
from visuomotor.text.grammar import level_grammar
from visuomotor.text.layout import Content
from visuomotor.text.scaffold import HEADERS, KINDS, LEVELS, Piece, Pieces, Words, parse_levels
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["LineLayout"]


@dataclass(frozen=True)
class LineLayout:
    """Levels of a layout that writes each on a line of its own; prompt and questions are the subclass's."""

    tokenizer: TextTokenizer

    levels: ClassVar[tuple[str, ...]] = LEVELS
    special_tokens: ClassVar[tuple[str, ...]] = ()
    fixed_text: ClassVar[tuple[str, ...]] = ()  # scaffold.FIXED_TEXT is part of every vocabulary
    placeholder: ClassVar[str] = ""
    has_coordinates: ClassVar[bool] = True
    extends_vocabulary: ClassVar[bool] = True

    @classmethod
    def check(cls, levels: Mapping[str, float], *, tags: bool, parallel: bool) -> None:
        """Accept everything: lines come as often as wanted, and know tags and parallel levels."""

    @classmethod
    def always_written(cls, levels: Mapping[str, float]) -> tuple[str, ...]:
        """No level: the caller decides which lines are written, and forces their headers."""
        return ()

    def header(self, name: str) -> Pieces:
        """Header of a level, never a target."""
        return [self._header(name)]

    def level(self, name: str, content: Content, turn: int = 0) -> Pieces:
        """Header, content and newline; content and newline are targets."""
        if isinstance(content, np.ndarray):
            ids = np.append(content.reshape(-1) + self.tokenizer.require_actions(), self.tokenizer.newline_id)
            return [self._header(name, turn), Piece(ids, KINDS[name], True, turn)]
        words = f" {content}" if isinstance(content, str) else content
        return [self._header(name, turn), self._line(words, KINDS[name], target=True, turn=turn)]

    def ending(self) -> Pieces:
        """Nothing: the last line's newline ends the text."""
        return []

    @property
    def answer_end(self) -> int:
        """Newline."""
        return self.tokenizer.newline_id

    def parse(self, text: str, level: str | None = None) -> dict[str, str]:
        """{level: content} of the lines that start with a header."""
        return parse_levels((HEADERS[level] if level else "") + text)

    def grammar(self, level: str, largest: int, names: Sequence[str], line: Callable[[], Grammar]) -> Grammar:
        """Grammar of one line."""
        return line() if level == "action" else level_grammar(level, self.tokenizer, largest, names)

    def _header(self, name: str, turn: int = 0) -> Piece:
        return Piece(self.tokenizer.encode(HEADERS[name]), KINDS[name], False, turn)

    def _line(self, content: Words, kind: TextKind, *, target: bool, turn: int = 0) -> Piece:
        """Words and coordinates, ended by a newline."""
        parts = [content] if isinstance(content, str) else content
        # Words and numbers are encoded apart, so that the caches of sentences and of numbers serve every sample.
        ids = [self.tokenizer.encode(p) if isinstance(p, str) else self.tokenizer.numbers[p] for p in parts]
        return Piece(np.concatenate([*ids, self.tokenizer.encode("\n")]), kind, target, turn)

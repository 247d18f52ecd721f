"""The text that CogACT reads: BOS, a question, and behind it LLaMA-2's empty piece and end of sequence.

The end of sequence is the cognition token, so nothing may stand behind it. A tokenizer without BOS begins with its end
of sequence instead, one without an empty piece does without it. Questions on images are those of Prismatic models,
which the end of sequence closes, too:

    In: What is left of the bowl?\nOut: a red block</s>
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.text.automaton import Grammar
from visuomotor.text.layout import Content, TextRequest
from visuomotor.text.scaffold import Piece, Pieces, Words, spoken
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["CogACTLayout", "prompt", "prompt_ids"]

EMPTY, END = 29871, 2


def prompt(instruction: str) -> str:
    """The text that an instruction becomes."""
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


def prompt_ids(instruction: str, encode: Callable[[str], Sequence[int]]) -> list[int]:
    """Token ids of the prompt, ending with the cognition token; `encode` is LLaMA-2's and puts BOS in front."""
    return [*encode(prompt(instruction)), EMPTY, END]


@dataclass(frozen=True)
class CogACTLayout:
    """Prompt alone, without levels; and questions with answers."""

    tokenizer: TextTokenizer

    name: ClassVar[str] = "cogact"
    levels: ClassVar[tuple[str, ...]] = ()
    special_tokens: ClassVar[tuple[str, ...]] = ()
    fixed_text: ClassVar[tuple[str, ...]] = (prompt(""),)
    placeholder: ClassVar[str] = ""
    has_coordinates: ClassVar[bool] = False
    extends_vocabulary: ClassVar[bool] = True

    @classmethod
    def check(cls, levels: Mapping[str, float], *, tags: bool, parallel: bool) -> None:
        """Refuse levels and tags."""
        if tags or any(levels.values()):
            raise ValueError(
                f"A text of the layout {cls.name!r} ends with its question, which has no tags, but levels is "
                f"{dict(levels)} and tags {tags}; set levels={{}} and tags=False."
            )

    @classmethod
    def always_written(cls, levels: Mapping[str, float]) -> tuple[str, ...]:
        """No level."""
        return ()

    def prompt(self, request: TextRequest) -> Pieces:
        """The question, ending with the cognition token."""
        return [Piece(np.append(self._question(request), self.tokenizer.eos_id), TextKind.PROMPT, False)]

    def _question(self, request: TextRequest) -> np.ndarray:
        words = self.tokenizer
        empty = () if words.empty_id is None else (words.empty_id,)
        ids = [words.begin_id, *words.encode(prompt(request.instruction)).tolist(), *empty]
        return np.array(ids, dtype=np.int64)

    def level(self, name: str, content: Content, turn: int = 0) -> Pieces:
        """Refused: nothing stands behind the cognition token."""
        self._refuse(name)

    def header(self, name: str) -> Pieces:
        """Refused: nothing stands behind the cognition token."""
        self._refuse(name)

    def ending(self) -> Pieces:
        """Nothing: the prompt ends itself."""
        return []

    def exchange(self, question: Words, answer: Words | None, *, turn: int = 0, first: bool = True) -> Pieces:
        """Question, and answer with the end of sequence; all turns see the BOS of the first."""
        words = self.tokenizer
        pieces = [Piece(np.array([words.begin_id]), TextKind.PROMPT, False)] if first and turn <= 1 else []
        pieces.append(Piece(words.encode(f"In: {spoken(question)}\nOut:"), TextKind.PROMPT, False, turn))
        if answer is not None:
            text = spoken(answer).strip()  # LLaMA-2's vocabulary puts a space in front itself
            ids = words.encode(f" {text}" if words.empty_id is None else text)
            pieces.append(Piece(np.append(ids, self.answer_end), TextKind.ANSWER, True, turn))
        return pieces

    @property
    def answer_end(self) -> int:
        """End of sequence."""
        return self.tokenizer.eos_id

    def parse(self, text: str, level: str | None = None) -> dict[str, str]:
        """No level."""
        return {}

    def grammar(self, level: str, largest: int, names: Sequence[str], line: Callable[[], Grammar]) -> Grammar | None:
        """Refused: nothing is written."""
        self._refuse(level)

    def _refuse(self, level: str) -> NoReturn:
        raise ValueError(
            f"A text of the layout {self.name!r} has no level {level!r}, since nothing stands behind its question; "
            f"leave the level out, or take another layout."
        )

"""Text layouts: the contract, and the one program that lays out texts of training and of inference.

A text is a prompt, levels in their order, and then one of three ends: the ending of a finished text (training), the
header of the level that the model writes next, or nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np

from visuomotor.embodiment import Embodiment
from visuomotor.text.automaton import Grammar
from visuomotor.text.scaffold import Pieces, Words
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["Content", "TextLayout", "TextRequest", "lay_out"]

Content = Words | np.ndarray  # words and coordinates, or action tokens from 0


@dataclass(frozen=True, kw_only=True)
class TextRequest:
    """Contents of one robot text, whatever its layout.

    instruction  words of the user's turn
    views        number of images that the model sees
    state        the robot's normalised state, float[s]; None: the text is about no robot
    robot        robot whose tags begin the user's turn; None: no tags
    levels       all levels of the text, also those that the model has yet to write
    contents     {level: content} of those that are in the text, in their order
    turns        {level: turn} where it is not 0 (see contract.Batch)
    next_level   level that the model writes next; its header ends the text
    complete     the text is a training sample: nothing is written behind it
    queries      number of query tokens (TextKind.QUERY), for layouts that have them: one for each number of a chunk
    """

    instruction: str
    views: int = 1
    state: np.ndarray | None = None
    robot: Embodiment | None = None
    levels: tuple[str, ...] = ()
    contents: Mapping[str, Content] = field(default_factory=dict)
    turns: Mapping[str, int] = field(default_factory=dict)
    next_level: str | None = None
    complete: bool = False
    queries: int = 0


class TextLayout(Protocol):
    """Layout of one prompt family in the words of one vocabulary.

    name                 value of ProcessorConfig.prompt
    levels               levels that a text may have
    special_tokens       tokens that the vocabulary needs beside those of every vocabulary
    fixed_text           sentences that a vocabulary trained here learns for this layout
    placeholder          content of a level that the data leaves empty; "": the level is left out
    has_coordinates      texts name places in the image, so pictures may only be shifted
    extends_vocabulary   a public Qwen vocabulary gets DM0's tokens (actions, robots, control modes)
    """

    name: ClassVar[str]
    levels: ClassVar[tuple[str, ...]]
    special_tokens: ClassVar[tuple[str, ...]]
    fixed_text: ClassVar[tuple[str, ...]]
    placeholder: ClassVar[str]
    has_coordinates: ClassVar[bool]
    extends_vocabulary: ClassVar[bool]

    def __init__(self, tokenizer: TextTokenizer) -> None: ...

    @classmethod
    def check(cls, levels: Mapping[str, float], *, tags: bool, parallel: bool) -> None:
        """Raise ValueError where the layout has no place for tags, for parallel levels, or for a level as often."""
        ...

    @classmethod
    def always_written(cls, levels: Mapping[str, float]) -> tuple[str, ...]:
        """Levels that a policy writes before it acts because every sample of training has them."""
        ...

    def prompt(self, request: TextRequest) -> Pieces:
        """User's turn."""
        ...

    def level(self, name: str, content: Content, turn: int = 0) -> Pieces:
        """One level; its content is a target of the text loss."""
        ...

    def header(self, name: str) -> Pieces:
        """Beginning of a level that the model writes; ValueError where the layout has no such level."""
        ...

    def ending(self) -> Pieces:
        """Pieces that close a finished text."""
        ...

    def exchange(self, question: Words, answer: Words | None, *, turn: int = 0, first: bool = True) -> Pieces:
        """Question and answer, a target; None: the model writes it. `first`: nothing stands before.

        Raises:
            ValueError: the layout has no place for questions.
        """
        ...

    @property
    def answer_end(self) -> int:
        """Token that ends an answer."""
        ...

    def parse(self, text: str, level: str | None = None) -> dict[str, str]:
        """{level: content} of a written text. `level`: the one whose header was forced, so that the text goes on."""
        ...

    def grammar(self, level: str, largest: int, names: Sequence[str], line: Callable[[], Grammar]) -> Grammar | None:
        """Grammar of a level; None: it may say anything.

        Args:
            largest: largest coordinate; names: names that boxes may have, () for any.
            line: makes the grammar of the action line.
        """
        ...


def lay_out(layout: TextLayout, request: TextRequest) -> Pieces:
    """Text of a training sample or of an inference request."""
    pieces = [*layout.prompt(request)]
    for name, content in request.contents.items():
        pieces += layout.level(name, content, request.turns.get(name, 0))
    if request.complete:
        return pieces + layout.ending()
    return pieces + (layout.header(request.next_level) if request.next_level else [])

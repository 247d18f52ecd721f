"""The text of a robot sample in Qwen2-VL's chat layout, as DexVLA has it.

    <|im_start|>system
    You are a helpful assistant.<|im_end|>
    <|im_start|>user
    <|vision_start|><|image_pad|><|vision_end|>... put the red block into the left bowl<|im_end|>
    <|im_start|>assistant
    reach for the red blockNext action:<|im_end|>

One image item stands for each present view, in the order of the views, and nothing is between the last one and the
instruction. An item's single `<|image_pad|>` is widened by the model, which knows how many tokens an image has. The
answer (the level "subtask") is the reasoning; it has no header, and "Next action:" and the end of the turn close it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.text.automaton import Grammar
from visuomotor.text.layout import Content, TextRequest
from visuomotor.text.scaffold import Piece, Pieces, Words
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["TOKENS", "ChatLayout", "token_ids"]

START, END, IMAGE = "<|im_start|>", "<|im_end|>", "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
TOKENS = (START, END, VISION_START, VISION_END, IMAGE)
SYSTEM = "You are a helpful assistant."
NEXT_ACTION = "Next action:"
REASONING = "subtask"  # the level that an answer is
NO_REASONING = " "  # what stands in the place of a reasoning that the data does not have
FIXED_TEXT = ("system\n", SYSTEM, "user\n", "assistant\n", NEXT_ACTION)


@dataclass(frozen=True)
class ChatLayout:
    """Chat of one question, the instruction, and one answer, the reasoning."""

    tokenizer: TextTokenizer

    name: ClassVar[str] = "qwen2_vl"
    levels: ClassVar[tuple[str, ...]] = (REASONING,)
    special_tokens: ClassVar[tuple[str, ...]] = TOKENS
    fixed_text: ClassVar[tuple[str, ...]] = FIXED_TEXT
    placeholder: ClassVar[str] = NO_REASONING
    has_coordinates: ClassVar[bool] = False
    extends_vocabulary: ClassVar[bool] = False

    @classmethod
    def check(cls, levels: Mapping[str, float], *, tags: bool, parallel: bool) -> None:
        """Accept the reasoning alone, in every sample or in none."""
        if set(levels) - {REASONING} or levels.get(REASONING, 0) not in (0, 1):
            raise ValueError(
                f"With prompt='qwen2_vl' the only level is 'subtask', with probability 0 or 1; levels is "
                f"{dict(levels)}."
            )
        if tags or parallel:
            raise ValueError("prompt='qwen2_vl' has neither tags nor parallel levels; leave both at their defaults.")

    @classmethod
    def always_written(cls, levels: Mapping[str, float]) -> tuple[str, ...]:
        """The reasoning, where samples have it."""
        return (REASONING,) if levels.get(REASONING) else ()

    def prompt(self, request: TextRequest) -> Pieces:
        """System turn, the user's turn with an image item for each view, and the head of the answer."""
        image = [VISION_START, IMAGE, VISION_END] * request.views
        system = [START, f"system\n{SYSTEM}", END, "\n"]
        user = [START, "user\n", *image, request.instruction, END, "\n"]
        texts = [*system, *user, START, "assistant\n"]
        return [Piece(self._ids(text), TextKind.PROMPT, False) for text in texts if text]

    def level(self, name: str, content: Content, turn: int = 0) -> Pieces:
        """The reasoning, all of it a target."""
        self._require(name)
        if not isinstance(content, str):
            raise ValueError(f"A reasoning is a text; got {type(content).__name__}.")
        return [Piece(self.tokenizer.encode(content + NEXT_ACTION), TextKind.SUBTASK, True, turn)]

    def header(self, name: str) -> Pieces:
        """Nothing: the head of the answer ends the prompt."""
        self._require(name)
        return []

    def ending(self) -> Pieces:
        """End of the answer's turn, a target. A text that the policy goes on from has none."""
        return [Piece(self._ids(END), TextKind.SUBTASK, True)]

    def exchange(self, question: Words, answer: Words | None, *, turn: int = 0, first: bool = True) -> Pieces:
        """Refused: published texts have no questions on images."""
        raise ValueError(
            "Questions on images have no place in DexVLA's chat layout (prompt='qwen2_vl'); leave them out."
        )

    @property
    def answer_end(self) -> int:
        """End of the turn."""
        return int(self._ids(END)[0])

    def parse(self, text: str, level: str | None = None) -> dict[str, str]:
        """The reasoning of a written answer."""
        return {REASONING: text.partition(NEXT_ACTION)[0]}

    def grammar(self, level: str, largest: int, names: Sequence[str], line: Callable[[], Grammar]) -> Grammar | None:
        """None: an answer ends with the turn, not with the line, and says anything."""
        return None

    def _require(self, level: str) -> None:
        if level != REASONING:
            raise ValueError(f"With prompt='qwen2_vl' a policy writes 'subtask', its reasoning, and not {level!r}.")

    def _ids(self, text: str) -> np.ndarray:
        if text not in TOKENS:
            return self.tokenizer.encode(text)
        ids = self.tokenizer.special(text)
        if ids is None:
            raise ValueError(
                f"This tokenizer has no token {text!r}, which Qwen2-VL's chat layout needs; take the tokenizer of a "
                f"Qwen2-VL, or let the run train one."
            )
        return ids


def token_ids(tokenizer: TextTokenizer) -> dict[str, int]:
    """What a model has to know of a chat vocabulary, under the names in its configuration; {} of any other."""
    found = {"end_id": tokenizer.special(END), "image_id": tokenizer.special(IMAGE)}
    return {name: int(ids[0]) for name, ids in found.items() if ids is not None}

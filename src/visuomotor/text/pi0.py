"""Layouts of pi0 and pi0.5: BOS and the task, in pi0.5 with the robot's state as 256 bins, then levels as lines.

    <bos>put the red block away
    <bos>Task: put the red block away, State: 128 12 255;
    Action:

A published policy acts behind these. Levels and questions are ours; they are lines as in `plain`, and "Action: " stands
only where none follows.
"""

from typing import ClassVar

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.text.layout import TextRequest
from visuomotor.text.lines import LineLayout
from visuomotor.text.scaffold import Piece, Pieces, Words
from visuomotor.text.tags import tag_pieces

__all__ = ["Pi0Layout", "Pi05Layout", "state_bins"]

STATE_BINS = 256


def state_bins(state: np.ndarray) -> list[int]:
    """Bins 0 to 255 of a normalised state between -1 and 1; -1 below, as published, and 255 above."""
    return (np.digitize(state, np.linspace(-1, 1, STATE_BINS + 1)[:-1]) - 1).tolist()


class Pi0Layout(LineLayout):
    """BOS, tags, and the instruction on one line."""

    name: ClassVar[str] = "pi0"

    def prompt(self, request: TextRequest) -> Pieces:
        """Instruction and newline, which published code encodes separately."""
        return [*self._begin(request), *self._pieces(cleaned(request.instruction), "\n")]

    def exchange(self, question: Words, answer: Words | None, *, turn: int = 0, first: bool = True) -> Pieces:
        """Question and answer, each a line; the first question has BOS in front."""
        begin = [Piece(self._bos, TextKind.PROMPT, False, turn)] if first else []
        pieces = [*begin, self._line(question, TextKind.PROMPT, target=False, turn=turn)]
        if answer is not None:
            pieces.append(self._line(answer, TextKind.ANSWER, target=True, turn=turn))
        return pieces

    @property
    def _bos(self) -> np.ndarray:
        return np.array([self.tokenizer.begin_id], dtype=np.int64)

    def _begin(self, request: TextRequest) -> Pieces:
        tags = tag_pieces(self.tokenizer, request.robot) if request.robot else []
        return [Piece(self._bos, TextKind.PROMPT, False), *tags]

    def _pieces(self, *texts: str) -> Pieces:
        return [Piece(self.tokenizer.encode(text), TextKind.PROMPT, False) for text in texts]


class Pi05Layout(Pi0Layout):
    """BOS, tags, instruction and state; a policy that acts at once has "Action: " behind them."""

    name: ClassVar[str] = "pi05"
    fixed_text: ClassVar[tuple[str, ...]] = ("Task: ", ", State: 128 0;\n", "Action: ")

    def prompt(self, request: TextRequest) -> Pieces:
        """Instruction and state, in one piece as published."""
        if request.state is None:
            raise ValueError("A prompt of the layout 'pi05' names the robot's state; give it to the TextRequest.")
        bins = " ".join(map(str, state_bins(request.state)))
        text = f"Task: {cleaned(request.instruction)}, State: {bins};\n" + ("" if request.levels else "Action: ")
        ids = self.tokenizer.encode_once(text)
        return [*self._begin(request), Piece(ids, TextKind.PROMPT, False)]


def cleaned(instruction: str) -> str:
    """An instruction without underscores and line breaks."""
    return instruction.strip().replace("_", " ").replace("\n", " ")

"""Layout of our own recipes: the instruction or question on a line of its own, then levels as lines."""

from typing import ClassVar

from visuomotor.contract import TextKind
from visuomotor.text.layout import TextRequest
from visuomotor.text.lines import LineLayout
from visuomotor.text.scaffold import Piece, Pieces, Words
from visuomotor.text.tags import tag_pieces

__all__ = ["PlainLayout"]


class PlainLayout(LineLayout):
    """Lines without roles."""

    name: ClassVar[str] = "plain"

    def prompt(self, request: TextRequest) -> Pieces:
        """Tags and the instruction on one line."""
        tags = tag_pieces(self.tokenizer, request.robot) if request.robot else []
        ids = self.tokenizer.encode(" ".join(request.instruction.split()) + "\n")
        return [*tags, Piece(ids, TextKind.PROMPT, False)]

    def exchange(self, question: Words, answer: Words | None, *, turn: int = 0, first: bool = True) -> Pieces:
        """Question and answer, each a line."""
        pieces = [self._line(question, TextKind.PROMPT, target=False, turn=turn)]
        if answer is not None:
            pieces.append(self._line(answer, TextKind.ANSWER, target=True, turn=turn))
        return pieces

"""Layout of published DM0 checkpoints: a chat between USER and ASSISTANT, then levels as lines.

    A chat between a curious user ... USER: <robot_arx5><joint_control>put the red block away ASSISTANT: Subtask: ...

The marker of the assistant stands only where words follow; a policy that acts at once never sees it.
"""

from typing import ClassVar

from visuomotor.contract import TextKind
from visuomotor.text.layout import TextRequest
from visuomotor.text.lines import LineLayout
from visuomotor.text.scaffold import DM0_SYSTEM, Piece, Pieces, Words, spoken
from visuomotor.text.tags import tag_pieces

__all__ = ["DM0Layout"]

USER, ASSISTANT = "USER: ", "ASSISTANT: "


class DM0Layout(LineLayout):
    """System sentence and user's turn in front of the lines."""

    name: ClassVar[str] = "dm0"

    def prompt(self, request: TextRequest) -> Pieces:
        """System sentence, then tags and instruction as the user's turn."""
        tags = tag_pieces(self.tokenizer, request.robot) if request.robot else []
        words = request.instruction.strip().replace("\n", " ")  # other spaces stay as they are, as published
        marker = [ASSISTANT] if any(level != "action" for level in request.levels) else []
        return [*self._pieces(DM0_SYSTEM, USER), *tags, *self._pieces(f"{words} ", *marker)]

    def exchange(self, question: Words, answer: Words | None, *, turn: int = 0, first: bool = True) -> Pieces:
        """Question as the user's turn, answer as a line of the assistant's; only the first has the system sentence."""
        system = [DM0_SYSTEM] if first else []
        pieces = self._pieces(*system, USER, f"{spoken(question)} ", ASSISTANT, turn=turn)
        if answer is not None:
            pieces.append(self._line(answer, TextKind.ANSWER, target=True, turn=turn))
        return pieces

    def _pieces(self, *texts: str, turn: int = 0) -> Pieces:
        # Published code encodes these parts separately; encoded as one text, tokens would merge across them.
        return [Piece(self.tokenizer.encode(text), TextKind.PROMPT, False, turn) for text in texts]

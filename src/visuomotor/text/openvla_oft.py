"""The text that OpenVLA-OFT reads: CogACT's question, a query for each number of the action chunk, end of sequence.

In: What action should the robot take to open the drawer?\nOut:<query> ... <query></s>
"""

from typing import ClassVar, NoReturn

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.text.cogact_prompt import CogACTLayout
from visuomotor.text.layout import TextRequest
from visuomotor.text.scaffold import Piece, Pieces, Words

__all__ = ["OFTLayout"]


class OFTLayout(CogACTLayout):
    """Prompt with queries, without levels and without questions on images."""

    name: ClassVar[str] = "openvla_oft"

    def prompt(self, request: TextRequest) -> Pieces:
        """Question, queries, end of sequence. Queries have no embedding, so their id is arbitrary; published is BOS."""
        words = self.tokenizer
        return [
            Piece(self._question(request), TextKind.PROMPT, False),
            Piece(np.full(request.queries, words.begin_id), TextKind.QUERY, False),
            Piece(np.array([words.eos_id]), TextKind.PROMPT, False),
        ]

    def exchange(self, question: Words, answer: Words | None, *, turn: int = 0, first: bool = True) -> NoReturn:
        """Refused: the model sees its whole text in both directions, so it predicts none."""
        raise ValueError(
            "A text of the layout 'openvla_oft' has no questions with answers, since its model predicts no text; leave "
            "sources of questions and conversations out of the mixture, or take another model."
        )

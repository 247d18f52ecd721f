"""The layout with queries, in LLaMA's words and in those of a vocabulary trained here."""

from pathlib import Path

import numpy as np
import pytest

from tests.text.test_llama import EMPTY, write_model
from visuomotor.contract import TextKind
from visuomotor.text import scaffold
from visuomotor.text.cogact_prompt import CogACTLayout, prompt
from visuomotor.text.layout import TextRequest, lay_out
from visuomotor.text.openvla_oft import OFTLayout
from visuomotor.text.tokenizer import TextTokenizer

REQUEST = TextRequest(instruction="Pick up the CAN", queries=6)


def test_queries_stand_between_the_question_and_the_end(tmp_path: Path) -> None:
    words = TextTokenizer.from_llama(write_model(tmp_path))
    ids, kinds, targets, _ = scaffold.text_of(lay_out(OFTLayout(words), REQUEST))
    question = words.encode("In: What action should the robot take to pick up the can?\nOut:").tolist()
    assert ids.tolist() == [1, *question, EMPTY, *[1] * 6, 2]
    assert kinds.tolist() == [TextKind.PROMPT] * (len(question) + 2) + [TextKind.QUERY] * 6 + [TextKind.PROMPT]
    assert not targets.any()
    cogact, *_ = scaffold.text_of(lay_out(CogACTLayout(words), REQUEST))
    assert cogact.tolist() == [1, *question, EMPTY, 2]


def test_a_vocabulary_of_ones_own_has_no_empty_piece() -> None:
    words = TextTokenizer.train([*scaffold.FIXED_TEXT, prompt("pick up the can")], 700)
    ids, kinds, _, _ = scaffold.text_of(lay_out(OFTLayout(words), REQUEST))
    question = words.encode(prompt("pick up the can")).tolist()
    assert ids[kinds == TextKind.PROMPT].tolist() == [words.begin_id, *question, words.eos_id]
    assert np.flatnonzero(kinds == TextKind.QUERY).tolist() == list(range(1 + len(question), 7 + len(question)))


def test_questions_with_answers_are_refused() -> None:
    words = TextTokenizer.train(scaffold.FIXED_TEXT, 700)
    with pytest.raises(ValueError, match=r"'openvla_oft' has no questions with answers.*predicts no text"):
        OFTLayout(words).exchange("Where is the can?", "here")

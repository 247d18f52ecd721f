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

import numpy as np

from visuomotor.contract import TextKind
from visuomotor.text.scaffold import Piece, Pieces
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["FIXED_TEXT", "TOKENS", "answer_pieces", "chat_pieces", "known_answer", "reasoning_of", "token_ids"]

START, END, IMAGE = "<|im_start|>", "<|im_end|>", "<|image_pad|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
TOKENS = (START, END, VISION_START, VISION_END, IMAGE)
SYSTEM = "You are a helpful assistant."
NEXT_ACTION = "Next action:"
NO_REASONING = " "  # what stands in the place of a reasoning that the data does not have
FIXED_TEXT = ("system\n", SYSTEM, "user\n", "assistant\n", NEXT_ACTION)


def chat_pieces(tokenizer: TextTokenizer, instruction: str, views: int) -> Pieces:
    """System turn, the user's turn with `views` image items and the raw instruction, and the head of the answer."""
    image = [VISION_START, IMAGE, VISION_END] * views
    texts = [START, f"system\n{SYSTEM}", END, "\n", START, "user\n", *image, instruction, END, "\n", START]
    return [Piece(_ids(tokenizer, text), TextKind.PROMPT, False) for text in [*texts, "assistant\n"] if text]


def answer_pieces(tokenizer: TextTokenizer, reasoning: str | None) -> Pieces:
    """The answer, all of it a target. None: reasoning is switched off, and the turn ends at once."""
    text = [] if reasoning is None else [tokenizer.encode((reasoning or NO_REASONING) + NEXT_ACTION)]
    return [Piece(np.concatenate([*text, _ids(tokenizer, END)]), TextKind.SUBTASK, True)]


def known_answer(tokenizer: TextTokenizer, reasoning: str) -> Pieces:
    """An answer that was written before, as the action head sees one that was just written: without its end."""
    return [Piece(tokenizer.encode(reasoning + NEXT_ACTION), TextKind.SUBTASK, False)]


def reasoning_of(text: str) -> str:
    """The reasoning in a written answer."""
    return text.partition(NEXT_ACTION)[0]


def token_ids(tokenizer: TextTokenizer) -> dict[str, int]:
    """What a model has to know of a chat vocabulary, under the names in its configuration; {} of any other."""
    found = {"end_id": tokenizer.special(END), "image_id": tokenizer.special(IMAGE)}
    return {name: int(ids[0]) for name, ids in found.items() if ids is not None}


def _ids(tokenizer: TextTokenizer, text: str) -> np.ndarray:
    if text not in TOKENS:
        return tokenizer.encode(text)
    found = tokenizer.special(text)
    if found is None:
        raise ValueError(
            f"This tokenizer has no token {text!r}, which Qwen2-VL's chat layout needs; take the tokenizer of a "
            f"Qwen2-VL, or let the run train one."
        )
    return found

"""The text that CogACT reads: BOS, a question, and behind it LLaMA-2's empty piece and end of sequence.

The end of sequence is the cognition token. A tokenizer without BOS begins with its end of sequence instead, one without
an empty piece does without it.
"""

from collections.abc import Callable, Sequence

import numpy as np

from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["prompt", "prompt_ids", "words_ids"]

EMPTY, END = 29871, 2


def prompt(instruction: str) -> str:
    """The text that an instruction becomes."""
    return f"In: What action should the robot take to {instruction.lower()}?\nOut:"


def prompt_ids(instruction: str, encode: Callable[[str], Sequence[int]]) -> list[int]:
    """Token ids of the prompt, ending with the cognition token; `encode` is LLaMA-2's and puts BOS in front."""
    return [*encode(prompt(instruction)), EMPTY, END]


def words_ids(tokenizer: TextTokenizer, instruction: str) -> np.ndarray:
    """The same in the words of any tokenizer of ours: int64[L]."""
    empty = () if tokenizer.empty_id is None else (tokenizer.empty_id,)
    ids = [tokenizer.begin_id, *tokenizer.encode(prompt(instruction)).tolist(), *empty, tokenizer.eos_id]
    return np.array(ids, dtype=np.int64)

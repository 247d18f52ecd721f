"""Frozen sentence embeddings: what an instruction says as one vector, for models without a language model of their own.

"hashed" needs no file: every word and every run of three to five letters votes for or against one of 256 numbers, by a
hash that is the same everywhere. Sentences that share words are near each other; what words mean it does not know. Any
other name is a DistilBERT, a folder or a name on the Hugging Face Hub.
"""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

__all__ = ["HASHED", "Sentences"]

HASHED = "hashed"
HASHED_WIDTH = 256
LETTERS = (3, 4, 5)
MAX_KEPT = 100_000  # texts whose embedding is remembered


class Sentences:
    """Text to float32[width], remembered. May be used from several threads.

    Raises:
        OSError: no DistilBERT of that name can be loaded.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self._embed: Callable[[str], np.ndarray]
        if source == HASHED:
            self.width, self._embed = HASHED_WIDTH, hashed
        else:
            self.width, self._embed = _distilbert(source)
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, text: str) -> np.ndarray:
        """The embedding of one sentence, whose spaces and capitals do not count."""
        text = " ".join(text.lower().split())
        if text not in self._known:
            if len(self._known) >= MAX_KEPT:
                self._known = {}
            self._known[text] = self._embed(text)
        return self._known[text]


def hashed(text: str) -> np.ndarray:
    """float32[256] of length 1 (of zeros for no words): signed votes of words and letter groups."""
    votes = np.zeros(HASHED_WIDTH, dtype=np.float32)
    for word in text.split():
        framed = f"<{word}>"
        for part in [framed, *(framed[i : i + n] for n in LETTERS for i in range(len(framed) - n + 1))]:
            code = zlib.crc32(part.encode())
            votes[code % HASHED_WIDTH] += 1.0 if code >> 31 else -1.0
    return votes / max(1e-6, float(np.linalg.norm(votes)))


def _distilbert(source: str) -> tuple[int, Callable[[str], np.ndarray]]:
    """(width, embedding): the mean over a text's tokens of the last layer."""
    from transformers import AutoTokenizer, DistilBertModel

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source)
        model = DistilBertModel.from_pretrained(source).eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise OSError(
            f"No DistilBERT could be loaded from {source!r}: {error} Give a folder that holds one (for instance "
            f"distilbert-base-uncased), or {HASHED!r}, which needs no file."
        ) from error

    @torch.no_grad()
    def embed(text: str) -> np.ndarray:
        told = tokenizer(text, return_tensors="pt", truncation=True)
        states = model(input_ids=told["input_ids"], attention_mask=told["attention_mask"]).last_hidden_state
        return states[0].mean(0).numpy()

    return model.config.dim, embed

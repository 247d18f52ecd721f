"""FAST action tokens (Pertsch et al., 2025): a chunk's frequencies, rounded, low ones first, in their own vocabulary.

Chunk [T, d] -> orthonormal DCT along time -> times `scale`, rounded -> all dimensions of frequency 0, then of 1, ...
-> byte-pair encoding over these integers, trained on chunks of the data. A smooth chunk has few frequencies, so its
line is several times shorter than one of bins.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.fft import dct, idct
from tokenizers import Tokenizer, decoders, models, trainers

__all__ = ["FastTokenizer"]

FIRST = 0xE000  # integers are characters from here on: the private area, which no text pre-processing touches
MOST = 0x1900  # characters of that area


class FastTokenizer:
    """Normalised chunks float[T, d] to tokens 0 ... size - 1 and back.

    lowest, highest: the range of rounded coefficients in the training data; what lies beyond is clipped to it.
    """

    def __init__(self, inner: Tokenizer, *, horizon: int, scale: float, lowest: int) -> None:
        self._inner = inner
        self.horizon, self.scale, self.lowest = horizon, scale, lowest
        known = {ord(c) - FIRST for token in inner.get_vocab() for c in token}
        self.highest = lowest + max(known)

    @classmethod
    def train(cls, chunks: Sequence[Float[np.ndarray, "T d"]], size: int = 256, scale: float = 10.0) -> "FastTokenizer":
        """Train on `chunks`, which share a horizon; the result depends on nothing else.

        Raises:
            ValueError: no chunks, or more distinct coefficients than `size` has room for.
        """
        if not len(chunks):
            raise ValueError("FAST tokens are trained on action chunks, but none was given.")
        sequences = [_coefficients(chunk, scale) for chunk in chunks]
        lowest, highest = min(int(s.min()) for s in sequences), max(int(s.max()) for s in sequences)
        if highest - lowest + 1 > min(size, MOST):
            raise ValueError(
                f"The coefficients of the chunks take {highest - lowest + 1} values ({lowest} to {highest}), more than "
                f"the {size} FAST tokens; raise fast_vocab, or lower fast_scale."
            )
        inner = Tokenizer(models.BPE())
        inner.decoder = decoders.Fuse()
        alphabet = [chr(FIRST + i) for i in range(highest - lowest + 1)]
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False
        )
        inner.train_from_iterator([_spelled(s, lowest) for s in sequences], trainer)
        return cls(inner, horizon=len(chunks[0]), scale=scale, lowest=lowest)

    @property
    def size(self) -> int:
        return self._inner.get_vocab_size()

    @cached_property
    def lengths(self) -> list[int]:
        """How many coefficients each token stands for."""
        return [len(self._inner.id_to_token(i) or "") for i in range(self.size)]

    def encode(self, chunk: Float[np.ndarray, "T d"]) -> np.ndarray:
        """int64 tokens of a normalised chunk of the horizon it was trained with."""
        if len(chunk) != self.horizon:
            raise ValueError(f"A chunk of {len(chunk)} steps came to FAST tokens of {self.horizon}; retrain them.")
        clipped = np.clip(_coefficients(chunk, self.scale), self.lowest, self.highest)
        return np.array(self._inner.encode(_spelled(clipped, self.lowest)).ids, dtype=np.int64)

    def decode(self, tokens: Iterable[int], width: int) -> Float[np.ndarray, "T d"] | None:
        """float32[T, width]; None when the tokens do not stand for exactly that many coefficients."""
        ids = [int(t) for t in tokens]
        if not all(0 <= i < self.size for i in ids) or sum(self.lengths[i] for i in ids) != self.horizon * width:
            return None
        spelled = "".join(self._inner.id_to_token(i) or "" for i in ids)
        integers = np.array([ord(c) - FIRST + self.lowest for c in spelled], dtype=np.float64)
        chunk = np.asarray(idct(integers.reshape(self.horizon, width) / self.scale, axis=0, norm="ortho"))
        return chunk.astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        vocabulary = json.loads(self._inner.to_str())
        return {"horizon": self.horizon, "scale": self.scale, "lowest": self.lowest, "tokenizer": vocabulary}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "FastTokenizer":
        inner = Tokenizer.from_str(json.dumps(data["tokenizer"]))
        return cls(inner, horizon=data["horizon"], scale=data["scale"], lowest=data["lowest"])


def _coefficients(chunk: np.ndarray, scale: float) -> np.ndarray:
    """Rounded DCT coefficients int64[T * d], low frequencies first."""
    frequencies = np.asarray(dct(np.asarray(chunk, dtype=np.float64), axis=0, norm="ortho"))
    return np.rint(frequencies * scale).astype(np.int64).reshape(-1)


def _spelled(coefficients: np.ndarray, lowest: int) -> str:
    return "".join(map(chr, (coefficients - lowest + FIRST).tolist()))

"""The discrete action line: a chunk as tokens, bins or FAST, and back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from visuomotor.text.action_tokens import BINS, decode_bins
from visuomotor.text.automaton import Grammar
from visuomotor.text.fast import FastTokenizer
from visuomotor.text.grammar import action_grammar
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["ActionLine", "load_fast"]


@dataclass(frozen=True, kw_only=True)
class ActionLine:
    """Chunks as lines of action tokens.

    tokenizer       vocabulary with the action tokens
    horizon, width  steps and dimensions of a chunk: T and A of the model
    kind, fast      "bins", or "fast" with its vocabulary
    stride          steps from one step of a line of bins to the next
    required        lines are written in training, so the vocabulary needs action tokens
    """

    tokenizer: TextTokenizer
    horizon: int
    width: int
    kind: Literal["bins", "fast"] = "bins"
    fast: FastTokenizer | None = None
    stride: int = 1
    required: bool = False

    def __post_init__(self) -> None:
        kind, count = self.kind, self.tokenizer.action_count
        if self.tokenizer.action_start is None and not self.required:
            return  # a public vocabulary as it is, of a policy that writes no action line
        if (kind == "fast") != (self.fast is not None) or count != (self.fast.size if self.fast else BINS):
            raise ValueError(
                f"action_tokens is {kind!r}, but the vocabulary has {count} action tokens and there are "
                f"{'no' if self.fast is None else self.fast.size} FAST tokens. A checkpoint keeps the kind of tokens "
                f"that it was trained with; train a new one to change them."
            )
        if self.fast is not None and self.fast.horizon != self.horizon:
            raise ValueError(
                f"The FAST tokens are of chunks of {self.fast.horizon} steps, but horizon is {self.horizon}."
            )

    @property
    def longest(self) -> int:
        """Steps that may at worst need a token for each dimension."""
        return self.horizon if self.fast is not None else self._steps

    @property
    def _steps(self) -> int:
        return -(-self.horizon // self.stride)

    def encode(self, actions: np.ndarray, bins: np.ndarray) -> np.ndarray:
        """Tokens from 0 of a normalised chunk float32[T, A]; bins int64[n, a] are those of its valid steps."""
        if self.fast is None:
            return bins[:: self.stride]
        return self.fast.encode(actions[:, : bins.shape[1]])

    def decode(self, ids: np.ndarray, width: int) -> np.ndarray | None:
        """Normalised float32[T, A] of a written line (ids [G], its newline and padding too); None if malformed.

        Steps between those that a line of bins holds are interpolated.
        """
        first = self.tokenizer.require_actions()
        written = ids[(ids != self.tokenizer.pad_id) & (ids != self.tokenizer.newline_id)] - first
        if ((written < 0) | (written >= self.tokenizer.action_count)).any():
            return None
        actions = np.zeros((self.horizon, self.width), dtype=np.float32)
        if self.fast is not None:
            chunk = self.fast.decode(written, width)
            if chunk is None:
                return None
            actions[:, :width] = chunk
            return actions
        if len(written) != self._steps * width:
            return None
        steps, held = np.arange(self.horizon), np.arange(0, self.horizon, self.stride)
        for dim, values in enumerate(decode_bins(written).reshape(-1, width).T):
            actions[:, dim] = np.interp(steps, held, values)
        return actions

    def grammar(self, width: int) -> Grammar:
        """Lines that stand for a whole chunk of `width` dimensions."""
        lengths = [1] * BINS if self.fast is None else self.fast.lengths
        return action_grammar(self.tokenizer, self.longest * width, lengths)


def load_fast(path: Path) -> FastTokenizer:
    try:
        return FastTokenizer.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; it holds the checkpoint's FAST tokens. Copy the folder.") from None
    except Exception as error:  # the tokenizers library raises bare Exception on malformed files
        raise ValueError(f"{path} is damaged: {error!r}. Copy the folder again.") from error

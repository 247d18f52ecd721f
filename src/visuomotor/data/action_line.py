"""The discrete action line: a chunk as tokens, bins or FAST, and back."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from visuomotor.data.action_tokens import BINS, decode_bins
from visuomotor.data.automaton import Grammar
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.fast import FastTokenizer
from visuomotor.data.grammar import action_grammar
from visuomotor.data.prepared import Prepared
from visuomotor.data.tokenizer import TextTokenizer

__all__ = ["ActionLine", "load_fast", "train_fast"]

FAST_CHUNKS = 5000  # that FAST tokens are trained on


@dataclass(frozen=True)
class ActionLine:
    """What the action line is made of. `fast` is None where it holds bins."""

    config: ProcessorConfig
    tokenizer: TextTokenizer
    fast: FastTokenizer | None = None

    def __post_init__(self) -> None:
        kind, count = self.config.action_tokens, self.tokenizer.action_count
        if self.tokenizer.action_start is None and not self.config.levels.get("action"):
            return  # a public vocabulary as it is, of a policy that writes no action line
        if (kind == "fast") != (self.fast is not None) or count != (self.fast.size if self.fast else BINS):
            raise ValueError(
                f"action_tokens is {kind!r}, but the vocabulary has {count} action tokens and there are "
                f"{'no' if self.fast is None else self.fast.size} FAST tokens. A checkpoint keeps the kind of tokens "
                f"that it was trained with; train a new one to change them."
            )
        if self.fast is not None and self.fast.horizon != self.config.horizon:
            raise ValueError(
                f"The FAST tokens are of chunks of {self.fast.horizon} steps, but horizon is {self.config.horizon}."
            )

    @property
    def longest(self) -> int:
        """Steps that may at worst need a token for each dimension."""
        return self.config.horizon if self.fast is not None else self._steps

    @property
    def _steps(self) -> int:
        return -(-self.config.horizon // self.config.action_token_stride)

    def encode(self, actions: np.ndarray, bins: np.ndarray) -> np.ndarray:
        """Tokens from 0 of a normalised chunk float32[T, A]; bins int64[n, a] are those of its valid steps."""
        if self.fast is None:
            return bins[:: self.config.action_token_stride]
        return self.fast.encode(actions[:, : bins.shape[1]])

    def decode(self, ids: np.ndarray, width: int) -> np.ndarray | None:
        """Normalised float32[T, A] of a written line (ids [G], its newline and padding too); None if malformed.

        Steps between those that a line of bins holds are interpolated.
        """
        first = self.tokenizer.require_actions()
        written = ids[(ids != self.tokenizer.pad_id) & (ids != self.tokenizer.newline_id)] - first
        if ((written < 0) | (written >= self.tokenizer.action_count)).any():
            return None
        actions = np.zeros((self.config.horizon, self.config.action_width), dtype=np.float32)
        if self.fast is not None:
            chunk = self.fast.decode(written, width)
            if chunk is None:
                return None
            actions[:, :width] = chunk
            return actions
        if len(written) != self._steps * width:
            return None
        steps, held = np.arange(self.config.horizon), np.arange(0, self.config.horizon, self.config.action_token_stride)
        for dim, values in enumerate(decode_bins(written).reshape(-1, width).T):
            actions[:, dim] = np.interp(steps, held, values)
        return actions

    def grammar(self, width: int) -> Grammar:
        """Lines that stand for a whole chunk of `width` dimensions."""
        lengths = [1] * BINS if self.fast is None else self.fast.lengths
        return action_grammar(self.tokenizer, self.longest * width, lengths)


def train_fast(config: ProcessorConfig, datasets: Iterable[Prepared]) -> FastTokenizer:
    """FAST tokens of up to FAST_CHUNKS chunks, evenly spread over the data; chunks with NaN are left out."""
    datasets, chunks = list(datasets), []
    for prepared in datasets:
        count, width = prepared.dataset.num_frames, prepared.raw_action.shape[1]
        rows = np.unique(np.linspace(0, count - 1, max(1, FAST_CHUNKS // len(datasets))).astype(np.int64))
        chunks += [prepared.actions_at(r)[0][:, :width] for r in rows.tolist() if prepared.has_actions(r)]
    return FastTokenizer.train(chunks, config.fast_vocab, config.fast_scale)


def load_fast(path: Path) -> FastTokenizer:
    try:
        return FastTokenizer.from_json(json.loads(path.read_text()))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; it holds the checkpoint's FAST tokens. Copy the folder.") from None
    except Exception as error:  # the tokenizers library raises bare Exception on malformed files
        raise ValueError(f"{path} is damaged: {error!r}. Copy the folder again.") from error

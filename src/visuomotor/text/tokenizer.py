"""Byte-level BPE trained on the run's own sentences, so that nothing is downloaded.

Numbers are read digit by digit, or by two: these are one token, with the space before them where there is one. A
newline is always a token of its own and ends a level.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from visuomotor.text.action_tokens import BINS

__all__ = ["TextTokenizer"]

FAST_TOKEN = "<fast_{}>"
PAD, EOS = "<pad>", "<eos>"
QWEN_PAD, QWEN_EOS = "<|endoftext|>", "<|im_end|>"
GEMMA_BOS = "<bos>"
LLAMA_BOS, LLAMA_EOS, LLAMA_PAD, LLAMA_NEWLINE, LLAMA_EMPTY = "<s>", "</s>", "<PAD>", "<0x0A>", "▁"
DIGIT_WEIGHT = 10_000
SPECIAL = [PAD, EOS, *(f"<action_{i}>" for i in range(BINS))]


class TextTokenizer:
    """Encodes text to int64 ids and back.

    Ids: pad, eos, newline, and from `action_start` the `action_count` action tokens: the FAST tokens where the
    vocabulary has them, else the 255 bins; LLaMA's, PaliGemma's and a plain Qwen's have none (None and 0). `begin_id`
    begins a text: LLaMA's or PaliGemma's BOS, else eos. `empty_id` is LLaMA's empty piece.
    """

    action_start: int | None

    def __init__(self, inner: Tokenizer) -> None:
        self.inner = inner
        inner.encode_special_tokens = True  # "<eos>" typed by a user is text, never the token
        self._cache: dict[str, np.ndarray] = {}
        self.empty_id: int | None = None
        if inner.token_to_id(GEMMA_BOS) is not None:  # first, because Gemma has LLaMA's byte pieces, too
            self._read_gemma()
            return
        if inner.token_to_id(LLAMA_NEWLINE) is not None:
            self._read_llama()
            return
        qwen = inner.token_to_id(PAD) is None
        self.pad_id = self._special(QWEN_PAD if qwen else PAD)
        self.begin_id = self.eos_id = self._special(QWEN_EOS if qwen else EOS)
        newline = inner.encode("\n", add_special_tokens=False).ids
        self.action_start, self.action_count = None, 0
        if not qwen or inner.token_to_id("<action_0>") is not None:
            self.action_start, self.action_count = self._special("<action_0>"), BINS
        last = None if self.action_start is None else self.action_start + BINS - 1
        if len(newline) != 1 or (last is not None and self._special(f"<action_{BINS - 1}>") != last):
            raise ValueError(
                "This tokenizer lacks a single newline token or consecutive <action_i> tokens; retrain it."
            )
        self.newline_id = newline[0]
        if inner.token_to_id(FAST_TOKEN.format(0)) is not None:
            self.action_start = self._special(FAST_TOKEN.format(0))
            self.action_count = next(
                i for i in range(inner.get_vocab_size()) if inner.token_to_id(FAST_TOKEN.format(i)) is None
            )

    def _read_llama(self) -> None:
        self.begin_id, self.eos_id, self.pad_id, self.newline_id, self.empty_id = (
            self._special(token) for token in (LLAMA_BOS, LLAMA_EOS, LLAMA_PAD, LLAMA_NEWLINE, LLAMA_EMPTY)
        )
        self.action_start, self.action_count = None, 0

    def _read_gemma(self) -> None:
        self.begin_id, self.eos_id, self.pad_id = (self._special(token) for token in (GEMMA_BOS, EOS, PAD))
        (self.newline_id,) = self.inner.encode("\n", add_special_tokens=False).ids
        self.action_start, self.action_count = None, 0

    @classmethod
    def train(cls, corpus: Iterable[str], vocab_size: int = 1024, digits: Literal[1, 2] = 1) -> "TextTokenizer":
        """Train on `corpus`; the result depends on nothing else. The vocabulary may stay below `vocab_size`.

        digits: how many digits of a number make one token; with 2, coordinates below 100 are a token each.
        """
        if vocab_size < len(SPECIAL) + 256:
            raise ValueError(f"vocab_size is {vocab_size}, but bytes and special tokens need {len(SPECIAL) + 256}.")
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(r"\n"), behavior="isolated"),
            pre_tokenizers.Split(Regex(f" ?[0-9]{{1,{digits}}}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ])  # fmt: skip
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        numbers = [f"{n:0{length}}" for length in range(1, digits + 1) for n in range(10**length)]
        spaced = [f"{before}{number}" for before in ("", " ") for number in numbers]
        often = spaced * (DIGIT_WEIGHT // digits**2)  # the most frequent pairs are merged first, so these always are
        inner.train_from_iterator([*sorted(set(corpus)), *often], trainer)
        return cls(inner)

    @classmethod
    def from_qwen(cls, folder: Path, *, add_dm0_tokens: bool = True) -> "TextTokenizer":
        """The tokenizer of a Qwen3 or published DM0 folder: see `qwen.read_qwen`."""
        from visuomotor.text.qwen import read_qwen

        return cls(read_qwen(Path(folder), add_dm0_tokens=add_dm0_tokens))

    @classmethod
    def from_llama(cls, folder: Path) -> "TextTokenizer":
        """The tokenizer of a LLaMA-2 folder: see `llama.read_llama`."""
        from visuomotor.text.llama import read_llama

        return cls(read_llama(Path(folder)))

    def with_fast_tokens(self, count: int) -> "TextTokenizer":
        """The same vocabulary with `count` FAST tokens behind it, which become the action tokens."""
        return self.with_special_tokens([FAST_TOKEN.format(i) for i in range(count)])

    def with_special_tokens(self, names: Sequence[str]) -> "TextTokenizer":
        """The same vocabulary with special tokens behind it."""
        inner = Tokenizer.from_str(self.inner.to_str())
        inner.add_special_tokens(list(names))
        return TextTokenizer(inner)

    def require_actions(self) -> int:
        """`action_start`; ValueError where there are no action tokens."""
        if self.action_start is None:
            raise ValueError("This vocabulary has no action tokens; leave the level 'action' out, and act by the flow.")
        return self.action_start

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self.inner.get_vocab().values())

    @cached_property
    def text_tokens(self) -> dict[int, str]:
        """{id: byte-level spelling} of the tokens of ordinary text: neither special nor with a line break."""
        special = self.inner.get_added_tokens_decoder()
        found = {i: token for token, i in self.inner.get_vocab().items() if i not in special}
        return {i: found[i] for i in sorted(found) if "Ċ" not in found[i] and "č" not in found[i]}

    @cached_property
    def numbers(self) -> list[np.ndarray]:
        """Ids of " 0" ... " 1000", the coordinates of boxes."""
        return [self.encode(f" {n}") for n in range(1001)]

    def encode(self, text: str) -> np.ndarray:
        """int64 ids of `text`, cached by sentence; the array is shared, do not write to it."""
        ids = self._cache.get(text)
        if ids is None:
            ids = self.encode_once(text)
            ids.setflags(write=False)
            if len(self._cache) >= 65536:
                self._cache.clear()
            self._cache[text] = ids
        return ids

    def encode_once(self, text: str) -> np.ndarray:
        """The same without the cache, for a text that hardly returns."""
        return np.array(self.inner.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def special(self, token: str) -> np.ndarray | None:
        """int64[1], the id of a special token; None where there is none of that name. `encode` never gives it."""
        return self._specials.get(token)

    @cached_property
    def _specials(self) -> dict[str, np.ndarray]:
        added = self.inner.get_added_tokens_decoder()
        return {token.content: np.array([i], dtype=np.int64) for i, token in added.items() if token.special}

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of `ids`; special tokens (padding, end, action bins) are left out."""
        return self.inner.decode([int(i) for i in ids], skip_special_tokens=True)

    def save(self, path: Path) -> None:
        path.write_text(self.inner.to_str(pretty=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> "TextTokenizer":
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; a checkpoint keeps its tokenizer beside processor.json.")
        try:
            inner = Tokenizer.from_str(path.read_text())
        except Exception as error:  # the library raises bare Exception on malformed files
            raise ValueError(f"{path} is not a tokenizer file (truncated?): {error}.") from error
        return cls(inner)

    def _special(self, token: str) -> int:
        found = self.inner.token_to_id(token)
        if found is None:
            raise ValueError(
                f"This tokenizer has no token {token!r}; train it with TextTokenizer.train, or read it with "
                f"TextTokenizer.from_qwen."
            )
        return found

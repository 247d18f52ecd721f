"""Keys and values of earlier tokens.

Dimensions: B batch, P past tokens, N key-value heads, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from visuomotor.nn.decoder_config import DecoderConfig

__all__ = ["KVCache", "KeyValue"]

KeyValue = tuple[Tensor, Tensor]  # rotated keys and values, each [B, N, P, D]


class KVCache:
    """Keys and values of all layers in buffers with room to grow, written in place. `length` slots are filled.

    `recent` holds, for every layer with a convolution, the inputs of each row's latest valid tokens.
    """

    def __init__(self, config: DecoderConfig, batch: int, capacity: int, like: Tensor) -> None:
        shape = (config.layers, 2, batch, config.kv_heads, capacity, config.head_dim)
        self.buffer = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self.length = 0
        self.recent: list[Tensor | None] = [None] * config.layers
        self._window: tuple[int, int] | None = None
        self._slots: list[tuple[Tensor, Tensor, KeyValue]] = []

    @property
    def capacity(self) -> int:
        return self.buffer.shape[4]

    def reserve(self, extra: int) -> None:
        """Make room for `extra` slots beyond those filled; copies only when it must grow."""
        missing = self.length + extra - self.capacity
        if missing > 0:
            self.buffer = F.pad(self.buffer, (0, 0, 0, missing))
            self._window = None

    def filled(self) -> list[KeyValue]:
        """The filled slots of every layer, for `Decoder.forward(past=...)`, which autograd can go through."""
        return [(layer[0, :, :, : self.length], layer[1, :, :, : self.length]) for layer in self.buffer]

    def write(self, layer: int, key: Tensor, value: Tensor) -> KeyValue:
        """Write behind the filled slots, and return filled and new slots together. `length` does not move."""
        window = (self.length, key.shape[2])
        if self._window != window:  # the same one for all steps of denoising, so its views are made once
            self._window, end = window, self.length + key.shape[2]
            self._slots = [
                (k[:, :, self.length : end], v[:, :, self.length : end], (k[:, :, :end], v[:, :, :end]))
                for k, v in self.buffer
            ]
        key_slot, value_slot, filled = self._slots[layer]
        key_slot.copy_(key)
        value_slot.copy_(value)
        return filled

    def keep_recent(self, before: Sequence[Tensor | None], rows: Tensor) -> None:
        """Take `recent` back to what it was `before` in rows (bool[B]) whose latest tokens were padding."""
        self.recent = [
            new if old is None or new is None else torch.where(rows[:, None, None], new, old)
            for old, new in zip(before, self.recent, strict=True)
        ]

    def forget(self) -> None:
        """Let what follows begin as a sequence of its own for the convolutions; keys and values stay."""
        self.recent = [None] * len(self.recent)

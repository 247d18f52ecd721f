"""Grouped-query self-attention of decoders.

Dimensions: B batch, S tokens, W width, H query heads, N key-value heads, D head width.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.nn.cache import KeyValue, KVCache
from visuomotor.nn.decoder_config import DecoderConfig
from visuomotor.nn.masks import Attention
from visuomotor.nn.norms import RMSNorm
from visuomotor.nn.rotary import Rotation, rotate_halves

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """Grouped-query attention of layer number `index`, with RMSNorm on queries and keys if the configuration has it."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        inner, kv_inner = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.width, inner, bias=False)
        self.k_proj = nn.Linear(config.width, kv_inner, bias=False)
        self.v_proj = nn.Linear(config.width, kv_inner, bias=False)
        self.o_proj = nn.Linear(inner, config.width, bias=False)
        offset = config.norm == "offset"
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps, offset=offset) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps, offset=offset) if config.qk_norm else None

    @property
    def rotation_dtype(self) -> torch.dtype:
        """The type in which queries and keys are rotated."""
        return (self.q_proj if self.q_norm is None else self.q_norm).weight.dtype

    def forward(
        self,
        x: Float[Tensor, "B S W"],
        attention: Attention,
        rotation: Rotation,
        *,
        past: KeyValue | None = None,
        cache: KVCache | None = None,
        keys: KeyValue | None = None,
        keys_only: bool = False,
    ) -> tuple[Float[Tensor, "B S W"] | None, KeyValue]:
        """(what the tokens attended to, None with `keys_only`; the keys and values of the tokens).

        `past` and `cache` are those of `Decoder.forward`. `keys`: the tokens' keys and values, where they exist
        already, with those of all other visible tokens.
        """
        pair = key, value = self._key_value(x, rotation) if keys is None else keys
        if cache is not None:
            key, value = cache.write(self.index, key, value)
        elif past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        if keys_only:
            return None, pair
        return self.attend(self._query(x, rotation), key, value, attention), pair

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Float[Tensor, "B S W"]:
        """Output for rotated queries [B, H, S, D] on all visible keys and values."""
        grouped = self.heads != self.kv_heads
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention.mask, is_causal=attention.causal, enable_gqa=grouped
        )
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _query(self, x: Tensor, rotation: Rotation) -> Float[Tensor, "B H S D"]:
        heads = self.q_proj(x.to(self.q_proj.weight.dtype)).unflatten(-1, (self.heads, self.head_dim))
        normed = heads if self.q_norm is None else self.q_norm(heads)
        return rotate_halves(normed.transpose(1, 2), rotation)

    def _key_value(self, x: Tensor, rotation: Rotation) -> KeyValue:
        x = x.to(self.k_proj.weight.dtype)  # norms may be kept in a wider type than the matrices
        keys = self.k_proj(x).unflatten(-1, (self.kv_heads, self.head_dim))
        values = self.v_proj(x).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
        normed = keys if self.k_norm is None else self.k_norm(keys)
        return rotate_halves(normed.transpose(1, 2), rotation), values

"""Qwen3-, LLaMA- or Gemma-style decoder whose keys and values other towers can attend to.

Dimensions: B batch, S tokens, W width.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from visuomotor.nn.attention import SelfAttention
from visuomotor.nn.cache import KeyValue, KVCache
from visuomotor.nn.convolution import TokenConvolution
from visuomotor.nn.decoder_config import DecoderConfig
from visuomotor.nn.masks import Attention
from visuomotor.nn.norms import AdaptiveRMSNorm, RMSNorm
from visuomotor.nn.rotary import Rotation, decoder_rotation

__all__ = ["Decoder", "DecoderConfig", "DecoderLayer", "GatedMLP", "KVCache", "KeyValue", "SelfAttention"]

Condition = Float[Tensor, "B W"] | Float[Tensor, "B S W"]


class GatedMLP(nn.Module):
    """SwiGLU, or GeGLU with the tanh approximation."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.activation = F.silu if config.activation == "silu" else partial(F.gelu, approximate="tanh")
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.gate_proj.weight.dtype)
        return self.down_proj(self.activation(self.gate_proj(x)) * self.up_proj(x))


class ScaledEmbedding(nn.Embedding):
    """Rows times sqrt(width). The table itself, which is Gemma's output matrix too, is not scaled."""

    def forward(self, input: Int64[Tensor, "B S"]) -> Float[Tensor, "B S W"]:
        return super().forward(input) * self.embedding_dim**0.5


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP with residuals, which adaptive norms gate. `index`: its number in the stack."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.convolution = TokenConvolution(config.width, config.convolution) if config.convolution else None
        self.self_attn = SelfAttention(config, index)
        self.mlp = GatedMLP(config)
        self.input_layernorm = _norm(config)
        self.post_attention_layernorm = _norm(config)

    def forward(
        self,
        x: Float[Tensor, "B S W"],
        attention: Attention,
        rotation: Rotation,
        same: Tensor | None = None,
        past: KeyValue | None = None,
        cache: KVCache | None = None,
        condition: Condition | None = None,
        keys_only: bool = False,
        keys: KeyValue | None = None,
        slot: Int64[Tensor, "B"] | None = None,
    ) -> tuple[Tensor, KeyValue]:
        """(output, keys and values of the tokens); with `keys_only` the output is `x`.

        same   neighbours that the convolution mixes (see `TokenConvolution.same_group`), None for all
        slot   computes one token a row; `attention` and `rotation` are this token's, and `keys` are everybody's

        The others are those of `Decoder.forward`.
        """
        normed, gate = _normed(self.input_layernorm, x, condition)
        if self.convolution is not None:
            normed, padded = self.convolution(normed, None if cache is None else cache.recent[self.index], same)
            if cache is not None:
                cache.recent[self.index] = self.convolution.latest(padded, attention)
        if slot is not None:
            x, normed = _at(x, slot), _at(normed, slot)
        attended, pair = self.self_attn(
            normed, attention, rotation, past=past, cache=cache, keys=keys, keys_only=keys_only
        )
        if attended is None:
            return x, pair
        x = _gated_sum(x, attended, gate)
        normed, gate = _normed(self.post_attention_layernorm, x, condition)
        return _gated_sum(x, self.mlp(normed), gate), pair


class Decoder(nn.Module):
    """A stack of layers and a final norm; parameter names are those of transformers' Qwen3, LLaMA and Gemma models.

    `checkpoint`: layers keep only their inputs, and are computed again in the backward pass.
    """

    checkpoint = False

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        if config.vocab_size is not None:
            table = ScaledEmbedding if config.scale_embeddings else nn.Embedding
            self.embed_tokens = table(config.vocab_size, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.layers))
        self.norm = _norm(config)

    def forward(
        self,
        x: Float[Tensor, "B S W"],
        attention: Attention,
        *,
        past: Sequence[KeyValue] | None = None,
        cache: KVCache | None = None,
        keys_only: bool = False,
        rotation: Rotation | None = None,
        hidden: list[Tensor] | None = None,
        condition: Condition | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run all layers; returns (normalised states [B, S, W], this call's keys and values per layer).

        past       keys and values that precede `x` in every layer, also those of another tower
        cache      the same for inference: `x` is written behind its filled slots; the caller advances `length`
        keys_only  stop at the last layer's keys and values: its states would be read by nobody, and are undefined
        rotation   `self.rotation(attention)`, where the caller has it already
        hidden     receives the input of every layer; entry i is what i layers made, 0 the embeddings
        condition  of adaptive norms: one for all tokens of a row, or one for each

        Raises:
            ValueError: `past` given to a tower with a convolution, which needs the past's inputs too; use `cache`.
                A condition without adaptive norms, or adaptive norms without a condition.
        """
        if past is not None and self.config.convolution:
            raise ValueError("A tower with a token convolution cannot go on from keys and values alone; pass `cache`.")
        if (condition is None) == (self.config.norm == "adaptive"):
            raise ValueError(
                f"The norms of this tower are {self.config.norm!r}: give a condition exactly where they are 'adaptive'."
            )
        rotation = self.rotation(attention) if rotation is None else rotation
        attention = attention.ready(self._first.self_attn.rotation_dtype)
        same = self._same(attention, x)
        pairs: list[KeyValue] = []
        for index, layer in enumerate(self.layers):
            if hidden is not None:
                hidden.append(x)
            before = None if past is None else past[index]
            stop = keys_only and index == len(self.layers) - 1
            inputs = (x, attention, rotation, same, before, cache, condition, stop)
            if self.checkpoint and cache is None and torch.is_grad_enabled():
                x, pair = checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x, pair = layer(*inputs)
            pairs.append(pair)
        return (x if keys_only else _normed(self.norm, x, condition)[0]), pairs

    def last_state(
        self, x: Float[Tensor, "B S W"], attention: Attention, own: KeyValue, slot: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B 1 W"]:
        """The normalised state of one token a row, where causal `forward(keys_only=True)` made `x` and its last `own`.

        The last layer's queries and MLP are computed for that token alone, because nobody reads the others'.
        """
        earlier = torch.arange(x.shape[1], device=x.device) <= slot[:, None]
        one = Attention(
            mask=earlier[:, None, None], causal=False, positions=attention.positions.gather(1, slot[:, None])
        )
        ready = one.ready(self._first.self_attn.rotation_dtype)
        same = self._same(attention, x)
        state, _ = self.layers[-1](x, ready, self.rotation(one), same=same, keys=own, slot=slot)
        return self.norm(state)

    def rotation(self, attention: Attention) -> Rotation:
        """Cosines and sines of the queries' positions."""
        dtype = self._first.self_attn.rotation_dtype
        return decoder_rotation(attention.positions, self.config.head_dim, self.config.rope_theta, dtype)

    @property
    def matrix_dtype(self) -> torch.dtype:
        """The type of the layers' matrices."""
        return self._first.self_attn.q_proj.weight.dtype

    @property
    def _first(self) -> DecoderLayer:
        """The first layer; a cast, because a compiled or wrapped layer is of another class with the same attributes."""
        return cast(DecoderLayer, self.layers[0])

    def _same(self, attention: Attention, x: Tensor) -> Tensor | None:
        """Which neighbours the convolutions mix, None for all."""
        if self._first.convolution is None or attention.groups is None:
            return None
        return self._first.convolution.same_group(attention.groups, x.dtype)


def _norm(config: DecoderConfig) -> RMSNorm | AdaptiveRMSNorm:
    if config.norm == "adaptive":
        return AdaptiveRMSNorm(config.width, config.norm_eps)
    return RMSNorm(config.width, config.norm_eps, offset=config.norm == "offset")


def _normed(norm: RMSNorm | AdaptiveRMSNorm, x: Tensor, condition: Condition | None) -> tuple[Tensor, Tensor | None]:
    """(normalised `x`, gate of the branch behind it or None)."""
    return (norm(x), None) if condition is None else norm(x, condition)


def _gated_sum(x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    return x + branch if gate is None else x + branch * gate


def _at(x: Float[Tensor, "B S W"], slot: Int64[Tensor, "B"]) -> Float[Tensor, "B 1 W"]:
    """The token at `slot` of each row."""
    return x.gather(1, slot[:, None, None].expand(-1, 1, x.shape[2]))

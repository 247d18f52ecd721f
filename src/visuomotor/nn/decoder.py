"""Qwen3-style or LLaMA-style decoder whose keys and values other towers can attend to.

Dimensions: B batch, S tokens, P past tokens, H query heads, N key-value heads, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from visuomotor.nn.masks import Attention
from visuomotor.nn.rotary import Rotation, decoder_rotation, rotate_halves

__all__ = ["Decoder", "DecoderConfig", "KVCache", "KeyValue", "RMSNorm", "TokenConvolution"]

KeyValue = tuple[Tensor, Tensor]  # rotated keys and values, each [B, N, P, D]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Dimensions of one tower. `vocab_size` None: no embedding table (an action expert).

    `qk_norm`: RMSNorm on each head's queries and keys (Qwen3); off, the decoder is LLaMA's.
    `convolution`: tokens that a causal depthwise convolution in front of each attention mixes; 0: none, as published.
    """

    width: int
    mlp_width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int | None = None
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    qk_norm: bool = True
    convolution: int = 0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key-value heads evenly.")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotary embeddings turn pairs.")
        if self.convolution < 0 or self.convolution == 1:
            raise ValueError(f"convolution is {self.convolution}; choose 0 for none, or at least 2 tokens.")


class RMSNorm(nn.Module):
    """Root-mean-square norm: statistics in float32, the weight multiplies after casting back."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if (
            x.dtype == self.weight.dtype == torch.float32
            and x.device.type == "cpu"
            and not torch.compiler.is_compiling()
        ):
            if not torch.is_grad_enabled():  # a function of its own costs as much as its arithmetic here
                return x * _scale(x, self.eps) * self.weight
            return _FusedRMSNorm.apply(x, self.weight, self.eps)
        wide = x.float()
        return (wide * (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()).to(x.dtype) * self.weight


class _FusedRMSNorm(torch.autograd.Function):
    """The same norm in float32 with fewer passes over memory, for CPUs: 2.5 to 3 times faster there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = _scale(x, eps)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        product = grads[0] * normed
        mean = (product @ weight[:, None]).div_(weight.shape[0])
        grad = torch.addcmul(grads[0] * weight, normed, mean, value=-1).mul_(scale)
        return grad, product.flatten(0, -2).sum(0), None


def _scale(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean square + eps) over the last axis."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


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


class SelfAttention(nn.Module):
    """Grouped-query attention, with per-head RMSNorm on queries and keys if the configuration has it."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        inner, kv_inner = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.width, inner, bias=False)
        self.k_proj = nn.Linear(config.width, kv_inner, bias=False)
        self.v_proj = nn.Linear(config.width, kv_inner, bias=False)
        self.o_proj = nn.Linear(inner, config.width, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else None

    @property
    def rotation_dtype(self) -> torch.dtype:
        """The type in which queries and keys are rotated."""
        return (self.q_proj if self.q_norm is None else self.q_norm).weight.dtype

    def query(self, x: Tensor, rotation: Rotation) -> Float[Tensor, "B H S D"]:
        heads = self.q_proj(x.to(self.q_proj.weight.dtype)).unflatten(-1, (self.heads, self.head_dim))
        normed = heads if self.q_norm is None else self.q_norm(heads)
        return rotate_halves(normed.transpose(1, 2), rotation)

    def key_value(self, x: Tensor, rotation: Rotation) -> KeyValue:
        x = x.to(self.k_proj.weight.dtype)  # norms may be kept in a wider type than the matrices
        keys = self.k_proj(x).unflatten(-1, (self.kv_heads, self.head_dim))
        values = self.v_proj(x).unflatten(-1, (self.kv_heads, self.head_dim)).transpose(1, 2)
        normed = keys if self.k_norm is None else self.k_norm(keys)
        return rotate_halves(normed.transpose(1, 2), rotation), values

    def attend(self, query: Tensor, key: Tensor, value: Tensor, attention: Attention) -> Tensor:
        grouped = self.heads != self.kv_heads
        out = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention.mask, is_causal=attention.causal, enable_gqa=grouped
        )
        return self.o_proj(out.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.width, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.gate_proj.weight.dtype)
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TokenConvolution(nn.Module):
    """Causal depthwise convolution over neighbouring tokens with a residual (Canon layer A, Allen-Zhu 2025).

    It puts the words of a name together into one query, which a decoder trained from nothing takes long to learn.
    """

    def __init__(self, width: int, tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, width).uniform_(-(tokens**-0.5), tokens**-0.5))

    @property
    def before(self) -> int:
        """Earlier inputs that a token reads."""
        return self.weight.shape[0] - 1

    def forward(
        self,
        x: Float[Tensor, "B S W"],
        recent: Float[Tensor, "B R W"] | None = None,
        same: Float[Tensor, "R B S 1"] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(mixed [B, S, W], inputs with those before them [B, R + S, W]); without `recent` the sequence begins.

        `same` (see `same_group`) drops neighbours of another group.
        """
        padded = F.pad(x, (0, 0, self.before, 0)) if recent is None else torch.cat([recent, x], dim=1)
        *earlier, own = self.weight.to(x.dtype)
        mixed = torch.addcmul(x, x, own)
        for shift, weight in enumerate(earlier):
            neighbour = padded[:, shift : shift + x.shape[1]]
            if same is not None:
                neighbour = neighbour * same[shift]
            mixed = torch.addcmul(mixed, neighbour, weight)
        return mixed, padded

    def latest(self, padded: Float[Tensor, "B T W"], attention: Attention) -> Float[Tensor, "B R W"]:
        """What the token behind each row's last valid one will read; zero where that is of another group."""
        # Padding repeats the position before it: the first slot at the last position is the last valid token.
        last = (attention.positions == attention.positions[:, -1:]).int().argmax(1)[:, None]
        steps = torch.arange(1 - self.before, 1, device=padded.device)
        slots = last + steps
        inputs = padded.gather(1, (slots + self.before)[..., None].expand(-1, -1, padded.shape[2]))
        if attention.groups is None:
            return inputs
        groups = attention.groups.gather(1, slots.clamp_min(0))
        return inputs * (groups == groups[:, -1:])[..., None]

    def same_group(self, groups: Int64[Tensor, "B S"], dtype: torch.dtype) -> Float[Tensor, "R B S 1"]:
        """1 where the neighbour 3, 2, 1 slots before (for a width of 4) is of the slot's own group, else 0."""
        padded = F.pad(groups, (self.before, 0), value=-1)
        length = groups.shape[1]
        same = [padded[:, shift : shift + length] == groups for shift in range(self.before)]
        return torch.stack(same)[..., None].to(dtype)


class DecoderLayer(nn.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.convolution = TokenConvolution(config.width, config.convolution) if config.convolution else None
        self.self_attn = SelfAttention(config)
        self.mlp = GatedMLP(config)
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)

    def inputs(self, x: Tensor, index: int, attention: Attention, same: Tensor | None, cache: KVCache | None) -> Tensor:
        """What queries, keys and values of layer `index` are made of."""
        normed = self.input_layernorm(x)
        if self.convolution is None:
            return normed
        mixed, padded = self.convolution(normed, None if cache is None else cache.recent[index], same)
        if cache is not None:
            cache.recent[index] = self.convolution.latest(padded, attention)
        return mixed

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """A stack of layers and a final norm; parameter names are those of transformers' Qwen3Model and LlamaModel.

    `checkpoint`: layers keep only their inputs, and are computed again in the backward pass.
    """

    checkpoint = False

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        if config.vocab_size is not None:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)

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
    ) -> tuple[Tensor, list[KeyValue]]:
        """Run all layers; returns (normalised states [B, S, W], this call's keys and values per layer).

        past       keys and values that precede `x` in every layer, also those of another tower
        cache      the same for inference: `x` is written behind its filled slots; the caller advances `length`
        keys_only  stop at the last layer's keys and values: its states would be read by nobody, and are undefined
        rotation   `self.rotation(attention)`, where the caller has it already
        hidden     receives the input of every layer; entry i is what i layers made, 0 the embeddings

        Raises:
            ValueError: `past` given to a tower with a convolution, which needs the past's inputs too; use `cache`.
        """
        if past is not None and self.config.convolution:
            raise ValueError("A tower with a token convolution cannot go on from keys and values alone; pass `cache`.")
        first = self.layers[0]
        assert isinstance(first, DecoderLayer)
        rotation = self.rotation(attention) if rotation is None else rotation
        attention = attention.ready(first.self_attn.rotation_dtype)
        same = self._same(attention, x)
        own: list[KeyValue] = []
        for index in range(len(self.layers)):
            if hidden is not None:
                hidden.append(x)
            before = None if past is None else past[index]
            stop = keys_only and index == len(self.layers) - 1
            given = (index, x, attention, rotation, same, before, cache, stop)
            if self.checkpoint and cache is None and torch.is_grad_enabled():
                x, pair = checkpoint(self._layer, *given, use_reentrant=False, preserve_rng_state=False)
            else:
                x, pair = self._layer(*given)
            own.append(pair)
        return (x if keys_only else self.norm(x)), own

    def last_state(
        self, x: Float[Tensor, "B S W"], attention: Attention, own: KeyValue, slot: Int64[Tensor, "B"]
    ) -> Float[Tensor, "B 1 W"]:
        """The normalised state of one token a row, where causal `forward(keys_only=True)` made `x` and its last `own`.

        The last layer's queries and MLP are computed for that token alone, because nobody reads the others'.
        """
        index, at = len(self.layers) - 1, slot[:, None, None].expand(-1, 1, x.shape[2])
        layer = self.layers[index]
        assert isinstance(layer, DecoderLayer)
        earlier = torch.arange(x.shape[1], device=x.device) <= slot[:, None]
        one = Attention(
            mask=earlier[:, None, None], causal=False, positions=attention.positions.gather(1, slot[:, None])
        )
        normed = layer.inputs(x, index, attention, self._same(attention, x), None).gather(1, at)
        query = layer.self_attn.query(normed, self.rotation(one))
        attended = layer.self_attn.attend(query, *own, one.ready(query.dtype))
        return self.norm(layer.finish(x.gather(1, at), attended))

    def rotation(self, attention: Attention) -> Rotation:
        """Cosines and sines of the queries' positions."""
        first = self.layers[0]
        assert isinstance(first, DecoderLayer)
        dtype = first.self_attn.rotation_dtype
        return decoder_rotation(attention.positions, self.config.head_dim, self.config.rope_theta, dtype)

    def _same(self, attention: Attention, x: Tensor) -> Tensor | None:
        """Which neighbours the convolutions mix, None for all."""
        first = self.layers[0]
        assert isinstance(first, DecoderLayer)
        if first.convolution is None or attention.groups is None:
            return None
        return first.convolution.same_group(attention.groups, x.dtype)

    def _layer(
        self,
        index: int,
        x: Tensor,
        attention: Attention,
        rotation: Rotation,
        same: Tensor | None,
        past: KeyValue | None,
        cache: KVCache | None,
        stop: bool,
    ) -> tuple[Tensor, KeyValue]:
        """(output, own keys and values) of one layer; with `stop` the output is `x`."""
        layer = self.layers[index]
        assert isinstance(layer, DecoderLayer)
        normed = layer.inputs(x, index, attention, same, cache)
        own = key, value = layer.self_attn.key_value(normed, rotation)
        if cache is not None:
            key, value = cache.write(index, key, value)
        elif past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        if stop:
            return x, own
        query = layer.self_attn.query(normed, rotation)
        return layer.finish(x, layer.self_attn.attend(query, key, value, attention)), own

"""Dimensions of a decoder, and the choices in which Qwen3, LLaMA and Gemma differ."""

from dataclasses import dataclass
from typing import Literal

from visuomotor.spelling import require_choices

__all__ = ["DecoderConfig"]


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Dimensions of one tower. `vocab_size` None: no embedding table (an action expert).

    qk_norm           RMSNorm on each head's queries and keys (Qwen3); off in LLaMA and Gemma
    norm              form of the RMSNorm: its gain is the weight (Qwen3, LLaMA), 1 + weight (Gemma: "offset"), or
                      comes with a shift and a gate from a condition of the tower's width (pi0.5's expert: "adaptive")
    activation        of the gated MLP: "silu", or "gelu" with the tanh approximation (Gemma)
    scale_embeddings  rows of the embedding table are multiplied by sqrt(width) when they are read (Gemma)
    convolution       tokens that a causal depthwise convolution in front of each attention mixes; 0: none, as published
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
    norm: Literal["gain", "offset", "adaptive"] = "gain"
    activation: Literal["silu", "gelu"] = "silu"
    scale_embeddings: bool = False
    convolution: int = 0

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"{self.heads} query heads cannot share {self.kv_heads} key-value heads evenly.")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotary embeddings turn pairs.")
        if self.convolution < 0 or self.convolution == 1:
            raise ValueError(f"convolution is {self.convolution}; choose 0 for none, or at least 2 tokens.")
        require_choices(self)
        if self.norm == "adaptive" and self.qk_norm:
            raise ValueError("Adaptive norms modulate tokens, not heads: set qk_norm=False, or choose another norm.")

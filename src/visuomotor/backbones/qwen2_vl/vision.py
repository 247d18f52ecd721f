"""transformers' Qwen2-VL vision tower, computed faster where all images have one size. Imports transformers at once.

Dimensions: N images, G patches of each, F numbers in a patch, W width.
"""

from typing import Any

from jaxtyping import Float, Int32
from torch import Tensor
from torch.nn import functional as F
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl

__all__ = ["VisionTower"]


class VisionTower(qwen2_vl.Qwen2VisionTransformerPretrainedModel):
    """The same numbers under the same names, for images of one size."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.patch_embed.__class__ = _PatchEmbed  # no tensor changes, only the way that it is used
        for block in self.blocks:
            assert isinstance(block, qwen2_vl.Qwen2VLVisionBlock)
            block.attn.__class__ = _Attention


class _PatchEmbed(qwen2_vl.PatchEmbed):
    """One product in the place of a 3-D convolution whose windows do not overlap."""

    def forward(self, hidden_states: Float[Tensor, "N*G F"]) -> Float[Tensor, "N*G W"]:
        weight = self.proj.weight
        return F.linear(hidden_states.to(weight.dtype), weight.flatten(1))


class _Attention(qwen2_vl.VisionAttention):
    """One call for all images; transformers makes one for each, and a GPU waits for their lengths in every layer."""

    def forward(
        self,
        hidden_states: Float[Tensor, "N*G W"],
        cu_seqlens: Int32[Tensor, "N+1"],
        position_embeddings: Any = None,
        **kwargs: Any,
    ) -> Float[Tensor, "N*G W"]:
        images = len(cu_seqlens) - 1
        q, k, v = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        q, k = qwen2_vl.apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        q, k, v = (part.unflatten(0, (images, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        return self.proj(mixed.transpose(1, 2).flatten(2).flatten(0, 1))

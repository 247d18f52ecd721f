"""Where DINOv2's class token and registers look, which are what the heads are told of the picture.

Dimensions: B images, P prefix tokens (class, then registers), H heads, G side of the grid of patches.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from visuomotor.nn.vit import ViT, ViTBlock

__all__ = ["prefix_attention"]


@torch.no_grad()
def prefix_attention(tower: ViT, images: Float[Tensor, "B 3 size size"], block: int = -2) -> Float[Tensor, "B P H G G"]:
    """The attention of the prefix tokens to the patches, in the block that gives them; images as the tower takes them.

    What a map lacks to a sum of 1 goes to the prefix tokens themselves.
    """
    layer = tower.blocks[block]
    assert isinstance(layer, ViTBlock)
    inputs: list[Tensor] = []
    handle = layer.attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    try:
        tower(images, block)
    finally:
        handle.remove()
    queries, keys, _ = layer.attn.qkv(inputs[0]).unflatten(-1, (3, layer.attn.heads, -1)).permute(2, 0, 3, 1, 4)
    count = tower.config.prefix_tokens
    scores = queries[:, :, :count] @ keys.transpose(-1, -2) / queries.shape[-1] ** 0.5
    maps = scores.softmax(-1)[..., count:].transpose(1, 2)
    return maps.unflatten(-1, (tower.config.grid, tower.config.grid))

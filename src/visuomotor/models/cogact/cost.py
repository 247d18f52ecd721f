"""Arithmetic and traffic of one CogACT sample, from its dimensions."""

from visuomotor.heads.diffusion_transformer import ActionModelConfig
from visuomotor.models.base import Cost
from visuomotor.models.cogact.config import CogACTConfig, VLMConfig
from visuomotor.nn.vit import ViTConfig

__all__ = ["action_model_cost", "sample_cost", "vlm_cost"]


def sample_cost(config: CogACTConfig, batch: int, text_length: int, steps: int) -> dict[str, Cost]:
    """Cost by part of one feature for each of `batch` observations, and of denoising one chunk each in `steps` steps.

    Operations are matrix products and attention; `values_moved` counts each weight once per use.
    """
    head = action_model_cost(config.action_model, batch * (1 + (config.guidance > 1)), steps)
    return {**vlm_cost(config.vlm, batch, config.num_views, text_length), "action_model": head}


def vlm_cost(config: VLMConfig, batch: int, views: int, text_length: int) -> dict[str, Cost]:
    """Of both towers up to their second-to-last blocks, the projector, and the language model.

    Of its last layer, all keys and values, and the rest for the cognition token alone.
    """
    images = batch * views
    towers = [_tower(tower) for tower in (config.dinov2, config.siglip)]
    inputs, width, patches = config.vision_width, config.llm.width, config.dinov2.patches
    projector = 4 * inputs**2 + 4 * inputs * width + width**2
    llm, tokens = config.llm, views * patches + text_length
    inner, shared = llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim
    keys = 2 * width * shared
    layer = 2 * width * inner + keys + 3 * width * llm.mlp_width
    products = (llm.layers - 1) * (tokens * layer + 2 * tokens**2 * inner)
    products += (tokens - 1) * keys + layer + 2 * tokens * inner
    return {
        "vision": Cost(flops=2.0 * images * sum(f for f, _ in towers), values_moved=sum(w for _, w in towers)),
        "projector": Cost(flops=2.0 * images * patches * projector, values_moved=projector),
        "llm": Cost(flops=2.0 * batch * products, values_moved=llm.layers * layer),
    }


def action_model_cost(config: ActionModelConfig, rows: int, steps: int) -> Cost:
    """Of `steps` predictions for `rows` chunks, and of embedding their conditions once."""
    width, tokens = config.width, config.horizon + 1
    block = 12 * width**2
    time, io, condition = 256 * width + width**2, 2 * config.action_dim * width, config.token_size * width
    step = config.depth * (tokens * block + 2 * tokens**2 * width) + time + config.horizon * io
    moved = steps * (config.depth * block + time + io) + condition
    return Cost(flops=2.0 * rows * (steps * step + condition), values_moved=moved)


def _tower(config: ViTConfig) -> tuple[float, float]:
    """(multiply-adds of an image, weights) without the last block, which is not run."""
    width, tokens = config.width, config.patches + config.prefix_tokens
    patch = 3 * config.patch_size**2 * width
    block = 4 * width**2 + 2 * width * config.mlp_width
    blocks = config.layers - 1
    return config.patches * patch + blocks * (tokens * block + 2 * tokens**2 * width), patch + blocks * block

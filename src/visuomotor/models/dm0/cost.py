"""Arithmetic and traffic of one DM0 sample, from its dimensions."""

from visuomotor.models.base import Cost
from visuomotor.models.dm0.config import DM0Config
from visuomotor.nn.decoder import DecoderConfig

__all__ = ["sample_cost"]


def sample_cost(config: DM0Config, batch: int, text_length: int, steps: int) -> dict[str, Cost]:
    """Cost by part of encoding `batch` observations once and denoising one chunk each in `steps` steps.

    Operations are matrix products, convolutions and attention; `values_moved` counts each weight once per use and the
    cached keys and values that the expert reads, which is what bounds small batches.
    """
    vision, images = config.vision, batch * config.num_views
    grid, width = vision.grid, vision.width
    tokens = grid**2 + 1
    patch = 3 * vision.patch_size**2
    block = 4 * width**2 + 2 * width * vision.mlp_width
    kernels = [9 * 2 * (2**index * width) ** 2 for index in range(vision.downsamples)]
    conv = sum(kernel * side**2 for kernel, side in zip(kernels, vision.sides()[1:], strict=True))
    per_image = grid**2 * patch * width + vision.layers * (tokens * block + 2 * tokens**2 * width) + conv
    vision_weights = patch * width + vision.layers * block + sum(kernels) + tokens * width

    image_tokens = config.num_views * vision.tokens()
    prefix = image_tokens + (config.state_token == "prefix") + text_length
    chunk = config.head.chunk_tokens
    tower, width = config.llm, config.expert.width
    projector = vision.output_width * tower.width
    llm_full, llm_keys = _layer(tower), 2 * tower.width * tower.kv_heads * tower.head_dim
    inner = tower.heads * tower.head_dim
    # The last layer only provides keys and values.
    llm = (tower.layers - 1) * (prefix * llm_full + 2 * prefix**2 * inner) + prefix * llm_keys
    expert_layer = _layer(config.head.decoder)
    expert = tower.layers * (chunk * expert_layer + 2 * chunk * (prefix + chunk) * inner)
    cached = batch * tower.layers * 2 * prefix * tower.kv_heads * tower.head_dim
    io = config.horizon * (2 * config.action_dim * width + 2 * width**2)
    io += (config.state_token == "expert") * config.state_dim * width
    time = width**2  # of all steps at once, whatever the batch
    io_weights = 2 * config.action_dim * width + 3 * width**2
    state = (config.state_token == "prefix") * config.state_dim * tower.width
    return {
        "vision": Cost(flops=2.0 * images * per_image, values_moved=vision_weights),
        "projector": Cost(flops=2.0 * batch * (image_tokens * projector + state), values_moved=projector + state),
        "llm": Cost(flops=2.0 * batch * llm, values_moved=(tower.layers - 1) * llm_full + llm_keys),
        "expert": Cost(flops=2.0 * steps * batch * expert, values_moved=steps * (tower.layers * expert_layer + cached)),
        "action_io": Cost(flops=2.0 * steps * (batch * io + time), values_moved=steps * io_weights),
    }


def _layer(config: DecoderConfig) -> int:
    """Weights of one layer's matrices."""
    inner, kv_inner = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return config.width * (2 * inner + 2 * kv_inner) + 3 * config.width * config.mlp_width

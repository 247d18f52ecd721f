"""Arithmetic and traffic of one DexVLA sample, from its dimensions."""

from itertools import pairwise

from visuomotor.backbones.qwen2_vl.images import TEMPORAL
from visuomotor.heads.diffusion_config import UNetConfig
from visuomotor.models.base import Cost
from visuomotor.models.dexvla.config import DexVLAConfig

__all__ = ["sample_cost"]


def sample_cost(config: DexVLAConfig, batch: int, text_length: int, steps: int) -> dict[str, Cost]:
    """Cost by part of encoding `batch` observations once, without writing, and denoising a chunk each in `steps` steps.

    Operations are matrix products, convolutions and attention; `values_moved` counts each weight once per use, those
    of the robots' own layers as one robot's.
    """
    tokens = config.image_grid[0] * config.image_grid[1]
    tower, decoder = config.vision, config.llm
    images, seen = batch * config.num_views, tokens * tower.merge**2
    width, patch = tower.width, 3 * TEMPORAL * tower.patch_size**2
    block = (4 + 2 * tower.mlp_ratio) * width**2
    vision = seen * patch * width + tower.layers * (seen * block + 2 * seen**2 * width)
    inner = tower.merge**2 * width
    merger = inner**2 + inner * decoder.width

    prefix = config.num_views * tokens + text_length
    kv = decoder.width // decoder.heads * decoder.kv_heads
    layer = decoder.width * (2 * decoder.width + 2 * kv + 3 * decoder.mlp_width)
    llm = decoder.layers * (prefix * layer + 2 * prefix**2 * decoder.width)
    fusion = {"projectors": 4 * decoder.width**2, "film": 2 * decoder.width**2}
    return {
        "vision": Cost(
            flops=2.0 * images * vision, values_moved=patch * width + tower.layers * block
        ),
        "merger": Cost(flops=2.0 * images * tokens * merger, values_moved=merger),
        "llm": Cost(flops=2.0 * batch * llm, values_moved=decoder.layers * layer),
        **{name: Cost(flops=2.0 * batch * size, values_moved=size) for name, size in fusion.items()},
        "head": _head_cost(config, batch, steps),
    }  # fmt: skip


def _head_cost(config: DexVLAConfig, batch: int, steps: int) -> Cost:
    head = config.head
    if isinstance(head, UNetConfig):
        return _unet_cost(head, batch, steps)
    width, chunk = head.width, head.horizon
    combine = (head.cond_dim + head.state_dim) * head.combine_width + head.combine_width**2
    combine += head.combine_width * head.cond_dim + head.cond_dim * width
    block = int((4 + 2 * head.mlp_ratio) * width**2)
    modulation = (6 * head.depth + 2) * width**2  # of the rows that all actions of a chunk share
    per_step = chunk * (head.depth * block + 2 * width * head.action_dim) + modulation
    per_step += head.depth * 2 * chunk**2 * width
    time = head.time_size * width + width**2
    weights = head.depth * block + modulation + 2 * width * head.action_dim
    return Cost(
        flops=2.0 * (batch * (combine + steps * per_step) + steps * time),
        values_moved=combine + time + steps * (weights - modulation) + modulation,
    )


def _unet_cost(head: UNetConfig, batch: int, steps: int) -> Cost:
    """Convolutions by the length they run at, and the linear layers that read the condition."""
    told, kernel = head.cond_dim + head.step_width, head.kernel
    widths, flops, weights = (head.action_dim, *head.channels), 0.0, 0.0

    def block(inputs: int, outputs: int, length: int) -> None:
        nonlocal flops, weights
        skip = inputs * outputs if inputs != outputs else 0
        convolutions, linear = kernel * outputs * (inputs + outputs) + skip, 2 * told * outputs
        flops += length * convolutions + linear
        weights += convolutions + linear

    for level, (inputs, outputs) in enumerate(pairwise(widths)):
        length = head.horizon // 2**level
        block(inputs, outputs, length)
        block(outputs, outputs, length)
        if level:
            block(2 * outputs, inputs, length)
            block(inputs, inputs, length)
            resampling = (3 + 4) * inputs**2  # down into this level, and up out of it
            flops += length * resampling
            weights += resampling
    for _ in range(2):
        block(widths[-1], widths[-1], head.horizon // 2 ** (len(head.channels) - 1))
    last = kernel * widths[1] ** 2 + widths[1] * head.action_dim
    mixed = (head.cond_dim + head.state_dim) * head.cond_dim + 8 * head.step_width**2
    return Cost(
        flops=2.0 * steps * batch * (flops + head.horizon * last + mixed),
        values_moved=steps * (weights + last + mixed),
    )

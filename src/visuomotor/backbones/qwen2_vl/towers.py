"""Qwen2-VL's two towers, built by transformers from our configuration; their tensors keep the published names.

Dimensions: B samples, P slots, W width, V views, M images of S tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from visuomotor.backbones.qwen2_vl.config import Qwen2VLConfig
from visuomotor.backbones.qwen2_vl.images import TEMPORAL, patches, resized

__all__ = ["image_tokens", "language_model", "read", "vision_tower"]

ROPE_THETA, NORM_EPS, MAX_POSITIONS = 1e6, 1e-6, 32768


def vision_tower(config: Qwen2VLConfig) -> Any:
    """Fresh `visual.*`: patches to tokens of the language model's width."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig

    from visuomotor.backbones.qwen2_vl.vision import VisionTower

    tower = VisionTower(
        Qwen2VLVisionConfig(
            depth=config.vision.layers,
            embed_dim=config.vision.width,
            hidden_size=config.llm.width,
            mlp_ratio=config.vision.mlp_ratio,
            num_heads=config.vision.heads,
            patch_size=config.vision.patch_size,
            spatial_merge_size=config.vision.merge,
            temporal_patch_size=TEMPORAL,
            initializer_range=config.initializer_range,
        )
    )
    tower.rotary_pos_emb = _with_table(tower.rotary_pos_emb, tower.config)
    return tower


def language_model(config: Qwen2VLConfig) -> Any:
    """Fresh `model.*`: the decoder without its output layer, which is the embedding."""
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLTextModel

    sections = list(config.llm.mrope_sections)
    decoder = Qwen2VLTextModel(
        Qwen2VLTextConfig(
            vocab_size=config.llm.vocab_size,
            hidden_size=config.llm.width,
            intermediate_size=config.llm.mlp_width,
            num_hidden_layers=config.llm.layers,
            num_attention_heads=config.llm.heads,
            num_key_value_heads=config.llm.kv_heads,
            max_position_embeddings=MAX_POSITIONS,
            rms_norm_eps=NORM_EPS,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA, "mrope_section": sections},
            initializer_range=config.initializer_range,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    decoder.rotary_emb = _with_table(decoder.rotary_emb, decoder.config)
    return decoder


def _with_table(rotary: Any, config: Any) -> Any:
    """The same, with its frequencies on the CPU where the model is built on the meta device: no file has them."""
    if not any(buffer.is_meta for buffer in rotary.buffers()):
        return rotary
    with torch.device("cpu"):
        return type(rotary)(config)


def image_tokens(
    tower: Any,
    images: Sequence[UInt8[Tensor, "B h w 3"] | Float[Tensor, "B 3 H W"]],
    present: Bool[Tensor, "B V"] | None,
    config: Qwen2VLConfig,
) -> Float[Tensor, "M S W"]:
    """Tokens of all images by one call of the tower: row after row, in each the views that it has.

    present   the views of each row; None: all. Floating-point images have passed `resized` already.
    """
    size, factor = (config.image_height, config.image_width), config.vision.patch_size * config.vision.merge
    pixels = [view if view.is_floating_point() else resized(view, size, factor) for view in images]
    together = torch.stack(pixels, dim=1)  # B V 3 H W
    chosen = together.flatten(0, 1) if present is None else together[present]
    flat = patches(chosen, config.vision.patch_size, config.vision.merge)
    grid = [1, *(config.vision.merge * side for side in config.image_grid)]
    tokens = tower(flat.flatten(0, 1), grid_thw=torch.tensor([grid] * len(flat), device=flat.device)).pooler_output
    return tokens.unflatten(0, (len(flat), -1))


def read(
    decoder: Any,
    x: Float[Tensor, "B P W"],
    positions: Int64[Tensor, "3 B P"],
    valid: Bool[Tensor, "B K"],
    cache: Any = None,
    layers: Sequence[int] = (),
) -> tuple[Float[Tensor, "B P W"], dict[int, Tensor]]:
    """States behind the final norm, and those of `layers`, see backbones.base.ContextRequest.

    `valid` covers the slots that `cache` (a transformers Cache, added to) holds, and `x`.
    """
    final = (-1, len(decoder.layers))
    output = decoder(
        inputs_embeds=x,
        position_ids=positions,
        attention_mask=valid.long(),
        past_key_values=cache,
        use_cache=cache is not None,
        output_hidden_states=any(layer not in final for layer in layers),
    )
    last = output.last_hidden_state
    return last, {layer: last if layer in final else output.hidden_states[layer] for layer in layers}

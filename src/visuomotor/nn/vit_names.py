"""Public weights of vision transformers under the names of `nn/vit.py`, which are timm's.

Read are timm's files and, of transformers, Dinov2WithRegistersModel and SiglipVisionModel: in memory (release 5) and as
files on the Hub, whose names differ.
"""

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from visuomotor.nn.vit import ViTConfig, resize_grid

__all__ = ["from_timm", "from_transformers", "siglip_names"]

# Pooling heads, classifiers and what only pre-training reads.
_UNUSED = re.compile(
    r"^(attn_pool|fc_norm|head|mask_token|text_model|logit_scale|logit_bias|classifier)\b|position_ids$"
)
_PREFIX = re.compile(r"^(dinov2_with_registers|vision_model)\.")
_RENAMES = [
    (re.compile(pattern), new)
    for pattern, new in (
        (r"^embeddings\.(patch_embeddings\.projection|patch_embedding)\.", "patch_embed.proj."),
        (r"^embeddings\.position_embedding(s|\.weight)$", "pos_embed"),
        (r"^embeddings\.register_tokens$", "reg_token"),
        (r"^embeddings\.(cls_token|mask_token)$", r"\1"),
        (r"^encoder\.layers?\.", "blocks."),
        (r"^(layernorm|post_layernorm)\.", "norm."),
        (r"\.layer_norm([12])\.", r".norm\1."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
        (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
        (r"\.(attention|self_attn)\.([qkv])_proj\.", r".attn.\2."),
        (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    )
]
_PART = re.compile(r"^(.*\.attn\.)(q|k|v|query|key|value)(\.(?:weight|bias))$")


def from_timm(tensors: Mapping[str, Tensor], config: ViTConfig) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """(tensors for `ViT(config)`, names left out because it has no use for them).

    Positions are resized to the configuration's grid; those of prefix tokens are added to them, which have none here.

    Raises:
        ValueError: the position table fits no square grid of patches.
    """
    unused = tuple(name for name in tensors if _UNUSED.search(name))
    found = {name: tensor for name, tensor in tensors.items() if name not in unused}
    if "pos_embed" in found:
        _move_positions(found, config)
    return found, unused


def from_transformers(tensors: Mapping[str, Tensor], config: ViTConfig) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The same for transformers' Dinov2WithRegistersModel and SiglipVisionModel.

    Queries, keys and values are put into one matrix. SigLIP's `gelu_pytorch_tanh` is `ViTConfig(gelu="tanh")`; timm,
    and with it CogACT, computes the same weights with the exact GELU.
    """
    renamed = {_timm_name(name): tensor for name, tensor in tensors.items()}
    parts: dict[str, dict[str, Tensor]] = {}
    found: dict[str, Tensor] = {}
    for name, tensor in renamed.items():
        if match := _PART.match(name):
            parts.setdefault(f"{match[1]}qkv{match[3]}", {})[match[2][0]] = tensor
        else:
            found[name] = tensor
    # An incomplete set is left out, so that the whole counts as missing.
    found |= {name: torch.cat([three[k] for k in "qkv"]) for name, three in parts.items() if len(three) == 3}
    return from_timm(found, config)


def siglip_names(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A tensor of `ViT` under the names of transformers' SiglipVisionModel, without the prefix `vision_model.`.

    The matrix of queries, keys and values becomes three.
    """
    if name == "pos_embed":
        return {"embeddings.position_embedding.weight": tensor[0]}
    name = name.replace("patch_embed.proj.", "embeddings.patch_embedding.").replace("blocks.", "encoder.layers.")
    name = re.sub(r"\.norm([12])\.", r".layer_norm\1.", name).replace("attn.proj.", "self_attn.out_proj.")
    name = re.sub(r"^norm\.", "post_layernorm.", name)
    if ".attn.qkv." not in name:
        return {name: tensor}
    parts = dict(zip("qkv", tensor.chunk(3), strict=True))
    return {name.replace("attn.qkv", f"self_attn.{part}_proj"): t for part, t in parts.items()}


def _timm_name(name: str) -> str:
    name = _PREFIX.sub("", name)
    for pattern, new in _RENAMES:
        name = pattern.sub(new, name)
    return name


def _move_positions(found: dict[str, Tensor], config: ViTConfig) -> None:
    table = found["pos_embed"].reshape(-1, found["pos_embed"].shape[-1])
    of_class = len(table) - math.isqrt(len(table)) ** 2 == 1
    if of_class and "cls_token" in found:
        found["cls_token"] = found["cls_token"] + table[0]
        table = table[1:]
    found["pos_embed"] = resize_grid(table, config.grid)[None]

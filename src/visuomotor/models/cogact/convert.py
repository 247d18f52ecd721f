"""Published CogACT checkpoints: a `.pt` file with the parts of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.heads.diffusion_transformer import ActionModel
from visuomotor.models.assign import assign, count_numbered, told_shape
from visuomotor.models.cogact.config import ACTION_MODEL_SIZES, LLAMA2_7B, SIZES, VLMConfig
from visuomotor.models.cogact.initialize import fresh_backbone
from visuomotor.models.cogact.tensors import BACKBONE, PUBLISHED, WHAT, action_model_from_published
from visuomotor.models.report import TensorReport
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.vit import ViTConfig
from visuomotor.nn.vit_names import from_timm

__all__ = ["Published", "read_published", "vlm_config_of", "vlm_from_published"]

DINO, SIGLIP, LLM = (PUBLISHED[part] for part in ("vision.dinov2.", "vision.siglip.", "llm."))
PARTS = ("vision_backbone", "projector", "llm_backbone")
TOWER_HEADS = 16  # of both published towers


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a published file holds. `action_model` None: a Prismatic or OpenVLA file, which has none; make a fresh one.

    `report` is that of the vision-language model, which `backbone` is.
    """

    backbone: DecoderBackbone
    action_model: ActionModel | None
    report: TensorReport


def read_published(
    path: Path | str, *, action_heads: int | None = None, vision_heads: int = TOWER_HEADS, llm_heads: int | None = None
) -> Published:
    """Read a `.pt` file: {"model": {"vision_backbone", "projector", "llm_backbone", "action_model"}}.

    Tensors are mapped from the file, not read at once, and keep their types. An average of the action model in the
    file ("ema_diffusion") is left out.
    action_heads, llm_heads: leave no trace in the tensors; None: those of the published size of the same width.

    Raises:
        FileNotFoundError: no file. ValueError: it holds more than tensors, parts are missing, or tensors do not fit.
    """
    parts = _read(Path(path))
    backbone, report = vlm_from_published(parts, vision_heads=vision_heads, llm_heads=llm_heads)
    action = parts.get("action_model")
    if action is None:
        return Published(backbone=backbone, action_model=None, report=report)
    heads = action_heads or _published_heads(action)
    action_model = action_model_from_published(action, num_heads=heads)
    return Published(backbone=backbone, action_model=action_model, report=report)


def vlm_from_published(
    parts: Mapping[str, Mapping[str, Tensor]], *, vision_heads: int = TOWER_HEADS, llm_heads: int | None = None
) -> tuple[DecoderBackbone, TensorReport]:
    """The vision-language model that a file's parts describe, sharing their tensors.

    Raises:
        ValueError: tensors are missing, unexpected or of another shape; the sentence names them.
    """
    absent = [part for part in PARTS if part not in parts]
    if absent:
        raise ValueError(f"Not a published CogACT checkpoint: it lacks {', '.join(absent)} and has {list(parts)}.")
    tensors = {f"{part}.{name}": tensor for part in PARTS for name, tensor in parts[part].items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = vlm_config_of(shapes, vision_heads=vision_heads, llm_heads=llm_heads)
    found, ignored = {}, []
    for stem, tower in ((DINO, config.dinov2), (SIGLIP, config.siglip)):
        own = {name.removeprefix(stem): tensor for name, tensor in tensors.items() if name.startswith(stem)}
        kept, unused = from_timm(own, tower)
        found |= {stem + name: tensor for name, tensor in kept.items()}
        ignored += [stem + name for name in unused]
    for name, tensor in tensors.items():
        if name.startswith("llm_backbone.llm.lm_head.") or name.endswith("rotary_emb.inv_freq"):
            ignored.append(name)
        elif not name.startswith((DINO, SIGLIP)):
            found[name] = tensor
    with torch.device("meta"):
        backbone = fresh_backbone(replace(SIZES["base"], **vars(config)))
    report = assign(backbone, found, ignored=tuple(ignored), names=BACKBONE)
    if not report.complete:
        raise ValueError(f"The vision-language model does not fit: {report.summary()}.")
    return backbone, report


def vlm_config_of(
    shapes: Mapping[str, tuple[int, ...]], *, vision_heads: int = TOWER_HEADS, llm_heads: int | None = None
) -> VLMConfig:
    """The configuration that published names and shapes describe; `llm_heads` None: heads as wide as LLaMA-2's.

    Raises:
        ValueError: a tensor that tells a dimension is missing.
    """
    vocabulary, width = told_shape(shapes, LLM + "embed_tokens.weight", WHAT)
    queries = told_shape(shapes, LLM + "layers.0.self_attn.q_proj.weight", WHAT)[0]
    head_dim = queries // llm_heads if llm_heads else LLAMA2_7B.head_dim
    llm = DecoderConfig(
        width=width,
        mlp_width=told_shape(shapes, LLM + "layers.0.mlp.gate_proj.weight", WHAT)[0],
        layers=count_numbered(shapes, LLM + "layers."),
        heads=max(1, queries // head_dim),
        kv_heads=max(1, told_shape(shapes, LLM + "layers.0.self_attn.k_proj.weight", WHAT)[0] // head_dim),
        head_dim=head_dim,
        vocab_size=vocabulary,
        rope_theta=LLAMA2_7B.rope_theta,
        norm_eps=LLAMA2_7B.norm_eps,
        qk_norm=False,
    )
    return VLMConfig(
        dinov2=_tower_of(shapes, DINO, vision_heads), siglip=_tower_of(shapes, SIGLIP, vision_heads), llm=llm
    )


def _tower_of(shapes: Mapping[str, tuple[int, ...]], stem: str, heads: int) -> ViTConfig:
    width, _, _, patch = told_shape(shapes, stem + "patch_embed.proj.weight", WHAT)
    fields: dict[str, Any] = {}
    if stem + "blocks.0.ls1.gamma" in shapes:
        fields["layer_scale"] = 1e-5
    if stem + "reg_token" in shapes:
        fields["registers"] = shapes[stem + "reg_token"][1]
    return ViTConfig(
        image_size=patch * round(told_shape(shapes, stem + "pos_embed", WHAT)[1] ** 0.5),
        patch_size=patch,
        width=width,
        layers=count_numbered(shapes, stem + "blocks."),
        heads=heads,
        mlp_width=told_shape(shapes, stem + "blocks.0.mlp.fc1.weight", WHAT)[0],
        class_token=stem + "cls_token" in shapes,
        **fields,
    )


def _published_heads(action: Mapping[str, Tensor]) -> int:
    name = next((name for name in action if name.endswith("x_embedder.linear.weight")), "")
    width = action[name].shape[0] if name else 0
    for size in ACTION_MODEL_SIZES.values():
        if size.width == width:
            return size.heads
    raise ValueError(f"No published action model is {width} wide, so its heads must be told; pass action_heads.")


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; it is the .pt file in the checkpoints folder of a published run.")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler refuses with many types
        raise ValueError(f"{path} holds more than tensors, or is damaged: {error}") from error
    parts = data.get("model") if isinstance(data, dict) else None
    if not isinstance(parts, dict):
        raise ValueError(f"{path} has no 'model' with the parts of a CogACT; it is no published checkpoint.")
    return parts

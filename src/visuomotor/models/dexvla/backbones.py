"""Into a fresh DexVLA: public Qwen2-VL weights (their names, their config.json), and the trunk of Stage 1.

Projectors and FiLM stay as they were initialised: no file holds them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visuomotor.models.base import Model
from visuomotor.models.dexvla.images import TEMPORAL
from visuomotor.models.dexvla.scaledp import ScaleDP
from visuomotor.models.dexvla.transplant import read_stage1, transplant_stage1
from visuomotor.models.dexvla.vlm import NORM_EPS, ROPE_THETA
from visuomotor.models.files import read_json, read_safetensors
from visuomotor.models.hub import TOKENIZER_FILES, find_weights
from visuomotor.models.report import TensorReport

__all__ = ["VLM_FILES", "load_backbones", "vlm_sizes", "vlm_tensors"]

VLM_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", *TOKENIZER_FILES)
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
VLM = ("model.", "visual.")


def load_backbones(model: Model, sources: Mapping[str, str]) -> TensorReport:
    """Fill a fresh `model` from {"vlm": public Qwen2-VL, "head": Stage 1}, or from one of them.

    "vlm", a folder or name on the Hugging Face Hub, fills language model and vision tower; "head", a published Stage-1
    file or a checkpoint folder, the trunk of a ScaleDP (see `transplant_stage1`).

    Raises:
        FileNotFoundError: a source is not there. ValueError: it is of another architecture or size, or damaged.
    """
    if not sources or sources.keys() - {"vlm", "head"}:
        raise ValueError(f"Weights fill 'vlm', which Qwen2-VL's have all of, and 'head', not {sorted(sources)}.")
    reports = []
    if "vlm" in sources:
        reports.append(_load_vlm(model, sources["vlm"]))
    if "head" in sources:
        reports.append(_load_stage1(model, sources["head"]))
    names = ("loaded", "missing", "unexpected", "ignored")
    return TensorReport(**{name: tuple(n for report in reports for n in getattr(report, name)) for name in names})


def _load_stage1(model: Model, source: str) -> TensorReport:
    if not isinstance(model.policy_head, ScaleDP):
        raise ValueError("Stage 1 is a ScaleDP, but the head of this model is a UNet; leave it out.")
    report = transplant_stage1(read_stage1(source), model.policy_head)
    loaded, missing = (tuple(f"policy_head.{n}" for n in names) for names in (report.loaded, report.missing))
    return replace(report, loaded=loaded, missing=missing)


def _load_vlm(model: Model, source: str) -> TensorReport:
    folder = find_weights(source, VLM_FILES, option="--vlm")
    sizes = vlm_sizes(read_json(folder / "config.json"), folder)
    ours = {name: attrgetter(name)(model.config) for name in sizes}
    wrong = [f"{name} is {value}, the model's {ours[name]}" for name, value in sizes.items() if value != ours[name]]
    if wrong:
        raise ValueError(
            f"The Qwen2-VL in {folder} is not of this model's size ({'; '.join(wrong)}); choose the size that starts "
            f"from it (base: Qwen2-VL-2B-Instruct) or set the configuration's fields."
        )
    own = {n: t for n, t in model.state_dict(keep_vars=True).items() if n.startswith(VLM)}
    loaded, unexpected = [], []
    with torch.no_grad():
        for name, tensor in vlm_tensors(read_safetensors(folder)):
            if name in own and own[name].shape == tensor.shape:
                own[name].copy_(tensor)
                loaded.append(name)
            else:
                unexpected.append(name)
    report = TensorReport(
        loaded=tuple(loaded), missing=tuple(sorted(own.keys() - set(loaded))), unexpected=tuple(unexpected)
    )
    if report.missing:
        raise ValueError(f"The weights in {folder} do not fit this model: {report}.")
    return report


def vlm_tensors(tensors: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The same under published names, whichever version of transformers wrote them.

    An output layer is left out: it is the embedding, which is checked.

    Raises:
        ValueError: the output layer is another one.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors:
        name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        if name in (EMBEDDING, OUTPUT):
            kept[name] = tensor
        if name != OUTPUT:
            yield name, tensor
    if len(kept) == 2 and not torch.equal(kept[EMBEDDING], kept[OUTPUT]):
        raise ValueError("These weights have an output layer of their own, but Qwen2-VL-2B's is its embedding.")


def vlm_sizes(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Fields of DexVLAConfig that a Qwen2-VL's config.json tells; what it leaves out is Qwen2-VL-2B's.

    Raises:
        ValueError: it says what our towers do not compute.
    """
    text, vision = config.get("text_config") or config, config.get("vision_config") or {}
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    said = {
        "rope_theta": rope.get("rope_theta", text.get("rope_theta", ROPE_THETA)),
        "rms_norm_eps": text.get("rms_norm_eps", NORM_EPS),
        "hidden_act": text.get("hidden_act", "silu"),
        "use_sliding_window": text.get("use_sliding_window", False),
        "tie_word_embeddings": config.get("tie_word_embeddings", True),
        "temporal_patch_size": vision.get("temporal_patch_size", TEMPORAL),
        "vision hidden_act": vision.get("hidden_act", "quick_gelu"),
    }
    ours = {
        "rope_theta": ROPE_THETA, "rms_norm_eps": NORM_EPS, "hidden_act": "silu", "use_sliding_window": False,
        "tie_word_embeddings": True, "temporal_patch_size": TEMPORAL, "vision hidden_act": "quick_gelu",
    }  # fmt: skip
    wrong = [f"{name} is {said[name]}, not {ours[name]}" for name in ours if said[name] != ours[name]]
    if wrong:
        raise ValueError(f"{folder / 'config.json'} describes another model than Qwen2-VL-2B: {'; '.join(wrong)}.")
    return {
        "llm.vocab_size": text.get("vocab_size", 151936),
        "llm.width": text.get("hidden_size", 1536),
        "llm.mlp_width": text.get("intermediate_size", 8960),
        "llm.layers": text.get("num_hidden_layers", 28),
        "llm.heads": text.get("num_attention_heads", 12),
        "llm.kv_heads": text.get("num_key_value_heads", 2),
        "llm.mrope_sections": tuple(rope.get("mrope_section", (16, 24, 24))),
        "vision.patch_size": vision.get("patch_size", 14),
        "vision.merge": vision.get("spatial_merge_size", 2),
        "vision.width": vision.get("embed_dim", 1280),
        "vision.layers": vision.get("depth", 32),
        "vision.heads": vision.get("num_heads", 16),
        "vision.mlp_ratio": vision.get("mlp_ratio", 4),
    }

"""Public Qwen2-VL weights: their names, their config.json, and into a fresh DexVLA.

Projectors, FiLM and action head stay as they were initialised: no public file of Qwen2-VL holds them.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visuomotor.models.dexvla.images import TEMPORAL
from visuomotor.models.dexvla.model import DexVLA
from visuomotor.models.dexvla.vlm import NORM_EPS, ROPE_THETA
from visuomotor.models.files import read_json, read_safetensors
from visuomotor.models.hub import TOKENIZER_FILES, find_weights
from visuomotor.models.report import TensorReport

__all__ = ["VLM_FILES", "load_backbones", "vlm_sizes", "vlm_tensors"]

VLM_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", *TOKENIZER_FILES)
EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
VLM = ("model.", "visual.")


def load_backbones(model: DexVLA, sources: Mapping[str, str]) -> TensorReport:
    """Fill language model and vision tower of `model` from {"vlm": folder or name on the Hugging Face Hub}.

    Raises:
        FileNotFoundError: the source is not there. ValueError: it is of another architecture or size, or damaged.
    """
    if set(sources) != {"vlm"}:
        raise ValueError(f"Public weights fill 'vlm', which Qwen2-VL's have all of, and not {sorted(sources)}.")
    folder = find_weights(sources["vlm"], VLM_FILES, option="--vlm")
    sizes = vlm_sizes(read_json(folder / "config.json"), folder)
    wrong = [
        f"{n} is {v}, the model's {getattr(model.config, n)}" for n, v in sizes.items() if v != getattr(model.config, n)
    ]
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
        "vocab_size": text.get("vocab_size", 151936),
        "width": text.get("hidden_size", 1536),
        "mlp_width": text.get("intermediate_size", 8960),
        "layers": text.get("num_hidden_layers", 28),
        "heads": text.get("num_attention_heads", 12),
        "kv_heads": text.get("num_key_value_heads", 2),
        "mrope_sections": tuple(rope.get("mrope_section", (16, 24, 24))),
        "patch_size": vision.get("patch_size", 14),
        "merge": vision.get("spatial_merge_size", 2),
        "vision_width": vision.get("embed_dim", 1280),
        "vision_layers": vision.get("depth", 32),
        "vision_heads": vision.get("num_heads", 16),
        "vision_mlp_ratio": vision.get("mlp_ratio", 4),
    }

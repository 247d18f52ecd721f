"""Published LoRA folders: adapters of the VLM, and what trained beside them in full, onto the weights of a base VLM.

A folder holds adapter_config.json, adapter_model.safetensors (or .bin) and non_lora_trainables.bin.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from visuomotor.models.files import read_json

__all__ = ["ADAPTER_CONFIG", "merge_adapters", "trained_in_full"]

ADAPTER_CONFIG, IN_FULL = "adapter_config.json", "non_lora_trainables.bin"
Tensors = dict[str, Tensor]


def trained_in_full(folder: Path) -> Tensors:
    """The tensors of non_lora_trainables.bin under the names of a checkpoint; those of adapters are left out."""
    tensors = _read_bin(folder / IN_FULL)
    tensors = {name.removeprefix("base_model."): tensor for name, tensor in tensors.items()}
    if any(name.startswith("model.policy_head.") for name in tensors):
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if "lora" not in name}


def merge_adapters(tensors: Tensors, folder: Path) -> int:
    """Add scale * B A to the weights in `tensors`, and say to how many.

    Raises:
        FileNotFoundError: a file is missing. ValueError: adapters of another kind, or of weights that are not there.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    scale, found = _scale(config, folder), _adapters(folder)
    stems = sorted(name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight"))
    strange = sorted(found.keys() - {f"{stem}.lora_{side}.weight" for stem in stems for side in "AB"})
    absent = [stem for stem in stems if f"{stem}.weight" not in tensors]
    if strange or absent or not stems:
        raise ValueError(
            f"The adapters in {folder} do not fit: {len(stems)} of them, {len(absent)} of weights that are not there "
            f"({', '.join(absent[:3])}), {len(strange)} tensors of another kind ({', '.join(strange[:3])})."
        )
    for stem in stems:
        weight = tensors[f"{stem}.weight"]
        product = found[f"{stem}.lora_B.weight"].float() @ found[f"{stem}.lora_A.weight"].float()
        tensors[f"{stem}.weight"] = (weight.float() + scale * product).to(weight.dtype)
    return len(stems)


def _scale(config: dict[str, Any], folder: Path) -> float:
    """alpha / rank, as the plain kind of adapters has it."""
    kind = {name: config.get(name) for name in ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")}
    wrong = [f"{name} is {value!r}" for name, value in kind.items() if value]
    if config.get("bias", "none") != "none":
        wrong.append(f"bias is {config['bias']!r}")
    if wrong or not config.get("r"):
        raise ValueError(
            f"{folder / ADAPTER_CONFIG} is not of plain LoRA adapters: {'; '.join(wrong) or 'r is absent'}."
        )
    return config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])


def _adapters(folder: Path) -> Tensors:
    safe, pickled = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    tensors = load_file(safe) if safe.exists() else _read_bin(pickled)
    return {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}


def _read_bin(path: Path) -> Tensors:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; copy the folder again, whole.")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler refuses with many types
        raise ValueError(f"{path} holds more than tensors, or is damaged: {error}") from error
    return {name: value for name, value in data.items() if isinstance(value, Tensor)}

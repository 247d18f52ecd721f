"""Folders of a published OpenVLA-OFT: transformers' model, component files, dataset_statistics.json."""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from visuomotor.models.files import read_json, read_safetensors
from visuomotor.models.oft.checkpoint import Precision, PublishedOFT, load, published_tensors, written_tensors
from visuomotor.models.oft.model import OFT
from visuomotor.models.report import TensorReport

__all__ = ["PublishedFolder", "read_folder", "write_folder"]

STATISTICS = "dataset_statistics.json"
COMPONENTS = ("action_head", "proprio_projector", "vision_backbone")


@dataclass(frozen=True, kw_only=True)
class PublishedFolder:
    """What a folder holds. `statistics` are those of the data set in `published`, action and proprio."""

    published: PublishedOFT
    statistics: Mapping[str, Any]
    report: TensorReport


def read_folder(
    folder: Path | str,
    dataset: str | None = None,
    *,
    horizon: int = 8,
    images: int = 2,
    num_heads: int | None = None,
    vision_heads: int = 16,
    precision: Precision = "file",
) -> PublishedFolder:
    """Read a folder.

    dataset    name in dataset_statistics.json, also without its ending `_no_noops`; None: the only one
    horizon, images   no file states them: 8 and 2 for LIBERO, 25 and 3 for ALOHA, 5 and 1 for Bridge
    num_heads  of the language model; None: heads as wide as LLaMA-2's

    Raises:
        FileNotFoundError: a file is missing. ValueError: a file is damaged, or its tensors do not fit.
    """
    folder = Path(folder)
    statistics = _of_dataset(read_json(folder / STATISTICS), dataset)
    parts = {name: _component(folder, name) for name in COMPONENTS}
    tensors = published_tensors(dict(read_safetensors(folder)), **parts)
    model, report = load(
        tensors,
        precision,
        num_heads=num_heads,
        vision_heads=vision_heads,
        horizon=horizon,
        action_dim=tensors["action_head.model.fc2.weight"].shape[0],
        images=images,
    )
    return PublishedFolder(published=PublishedOFT(model, statistics["action"]), statistics=statistics, report=report)


def write_folder(
    model: OFT, folder: Path | str, statistics: Mapping[str, Any], *, step: int, base: Path | str | None = None
) -> None:
    """Write a folder that `read_folder` and the published code read.

    statistics   {data set: {"action": {...}, "proprio": {...}}}
    base         the folder that the model came from: its configuration and tokenizer files are copied, and its tensors
                 that this model has no place for (output layer, SigLIP's pooling), which transformers expects

    Raises:
        FileExistsError: the folder exists.
    """
    folder = Path(folder)
    folder.mkdir(parents=True)
    parts = written_tensors(model)
    tensors = parts.pop("model")
    if base is not None:
        tensors |= {name: tensor for name, tensor in read_safetensors(Path(base)) if name not in tensors}
        for file in (f for f in Path(base).iterdir() if f.suffix in (".json", ".model", ".py")):
            if not file.name.endswith(".index.json"):
                shutil.copy(file, folder / file.name)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, part in parts.items():
        torch.save(part, folder / f"{name}--{step}_checkpoint.pt")
    (folder / STATISTICS).write_text(json.dumps(statistics, indent=2) + "\n")


def _component(folder: Path, name: str) -> dict[str, Tensor] | None:
    """The tensors of a component's latest step; None where there is no such file."""
    steps = {int(m[1]): f for f in folder.glob(f"{name}--*.pt") if (m := re.search(r"--(\d+)_checkpoint", f.name))}
    if not steps:
        return None
    path = steps[max(steps)]
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # the unpickler refuses with many types
        raise ValueError(f"{path} holds more than tensors, or is damaged: {error}") from error


def _of_dataset(statistics: Mapping[str, Any], dataset: str | None) -> Mapping[str, Any]:
    names = list(statistics)
    chosen = dataset or (names[0] if len(names) == 1 else "")
    chosen = chosen if chosen in names else f"{chosen}_no_noops"
    if chosen not in names:
        raise ValueError(
            f"{STATISTICS} has {'none of ' + repr(dataset) if dataset else 'several data sets'}; choose one of "
            f"{', '.join(names)}."
        )
    return statistics[chosen]

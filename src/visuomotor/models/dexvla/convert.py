"""Published DexVLA folders: config.json, sharded safetensors, tokenizer files, and statistics as JSON, read.

A published folder does not say which robot its numbers belong to: `processor_of` takes an Embodiment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from visuomotor.codec import update
from visuomotor.contract import Embodiment
from visuomotor.data.augment import AugmentConfig
from visuomotor.data.normalization import MARGIN
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.data.statistics import Statistics, VectorStatistics
from visuomotor.heads.diffusion_config import SCALEDP_SIZES
from visuomotor.models.assign import assign
from visuomotor.models.dexvla.adapters import ADAPTER_CONFIG, merge_adapters, trained_in_full
from visuomotor.models.dexvla.backbones import VLM_FILES, vlm_sizes, vlm_tensors
from visuomotor.models.dexvla.config import SIZES
from visuomotor.models.dexvla.model import DexVLA
from visuomotor.models.dexvla.published import scaledp_config, unet_config
from visuomotor.models.dexvla.tensors import NAMES
from visuomotor.models.files import read_json, read_safetensors
from visuomotor.models.hub import find_weights
from visuomotor.models.report import TensorReport
from visuomotor.text import chat
from visuomotor.text.tokenizer import TextTokenizer

__all__ = [
    "AUGMENT",
    "MAX_NEW_TOKENS",
    "Published",
    "is_published",
    "processor_of",
    "read_published",
    "read_statistics",
]

HEAD, STATISTICS = "policy_head.", "dataset_stats.json"
IMAGES = {"image_height": 240, "image_width": 320, "num_views": 3}
MAX_TEXT, MAX_NEW_TOKENS = 2048, 256
# Published: 95 % of every image, at inference too. Brightness and contrast are ours, by the published shares.
AUGMENT = AugmentConfig(crop=0.05, rotation=5.0, brightness=0.3, contrast=0.4, saturation=0.5, shared=True)
Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a published folder holds. `config` is its config.json; `adapters` how many were merged."""

    folder: Path
    model: DexVLA
    tokenizer: TextTokenizer
    config: dict[str, Any]
    report: TensorReport
    adapters: int = 0


def is_published(folder: Path) -> bool:
    """Whether the folder is a DexVLA's: its configuration has a policy head, or it holds adapters."""
    config = folder / "config.json"
    return (folder / ADAPTER_CONFIG).exists() or (config.exists() and "policy_head_type" in read_json(config))


def read_published(
    folder: Path | str,
    *,
    base: str | None = None,
    head_heads: int | None = None,
    precision: Literal["file", "float32", "reference"] = "file",
) -> Published:
    """Read an assembled checkpoint, or LoRA adapters with what trained beside them.

    base: folder or Hub name of the VLM under the adapters; None takes the one they name.
    head_heads: of a ScaleDP whose size is none of Ti to H, and whose configuration does not say.
    precision: "file" keeps the types of the file, "float32" widens, "reference" is the published code's bfloat16.

    Raises:
        FileNotFoundError: a file is missing. ValueError: a file is damaged, tensors are missing, unexpected or of
        another shape (the error has the report's summary), or config.json says what our model does not compute.
    """
    folder = Path(folder)
    tensors, under, adapters = _tensors(folder, base)
    config = read_json((folder if (folder / "config.json").exists() else under) / "config.json")
    vlm = vlm_sizes(config if "vision_config" in config else read_json(under / "config.json"), folder)
    words = folder if any((folder / file).exists() for file in ("tokenizer.json", "vocab.json")) else under
    tokenizer = TextTokenizer.from_qwen(words, add_dm0_tokens=False)
    ids = {"pad_id": tokenizer.pad_id, **chat.token_ids(tokenizer)}
    head = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
    with torch.device("meta"):
        model = DexVLA(update(SIZES["nano"], {**IMAGES, **vlm, **ids, **_head_fields(head, config, head_heads)}))
    report = assign(model, tensors, names=NAMES)
    if not report.complete:
        raise ValueError(f"{folder} does not fit the model that its own shapes describe: {report.summary()}.")
    if precision != "file":
        model = model.to({"float32": torch.float32, "reference": torch.bfloat16}[precision])
    return Published(
        folder=folder, model=model, tokenizer=tokenizer, config=config, report=report, adapters=adapters
    )  # fmt: skip


def _tensors(folder: Path, base: str | None) -> tuple[Tensors, Path, int]:
    """All tensors, the folder of what lies under the adapters (or the same one), and how many of these were merged."""
    if not (folder / ADAPTER_CONFIG).exists():
        return dict(vlm_tensors(read_safetensors(folder))), folder, 0
    name = base or read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or ""
    under = find_weights(name, VLM_FILES, option="--base")
    tensors = {**dict(vlm_tensors(read_safetensors(under))), **trained_in_full(folder)}
    return tensors, under, merge_adapters(tensors, folder)


def _head_fields(head: Mapping[str, Tensor], config: Mapping[str, Any], heads: int | None) -> dict[str, Any]:
    """Fields of DexVLAConfig that the tensors of a policy head, and its block in config.json, tell."""
    if config.get("using_film") is False:
        raise ValueError("This checkpoint was trained without FiLM between its projectors, which is another model.")
    said, weight = config.get("policy_head_config") or {}, float(config.get("llm_loss_weight", 1.0))
    if "down_modules.0.0.blocks.0.block.0.weight" in head:
        unet = unet_config(head, horizon=int(said.get("prediction_horizon", 16)))
        return {"head": unet, "text_weight": weight}
    if "x_embedder.weight" not in head:
        raise ValueError(
            f"There is no action head: of {len(head)} tensors below {HEAD!r} none is a ScaleDP's or a UNet's. A plain "
            f"Qwen2-VL starts a training (weights={{'vlm': FOLDER}}), it cannot be converted."
        )
    sizes = {(size["width"], size["depth"]): size["heads"] for size in SCALEDP_SIZES.values()}
    found = scaledp_config(head, num_heads=1)
    heads = heads or said.get("num_heads") or sizes.get((found.width, found.depth))
    if heads is None:
        raise ValueError(
            f"A ScaleDP of width {found.width} and depth {found.depth} is none of the named sizes, and its number of "
            f"attention heads is in no tensor; say it (head_heads)."
        )
    return {"head": replace(found, heads=heads), "text_weight": weight}


# Statistics ---------------------------------------------------------------------------------------------------------


def processor_of(published: Published, embodiment: Embodiment, statistics: Statistics) -> Processor:
    """The processor that makes a policy of a published model: texts, cameras in order, normalisation as published.

    Raises:
        ValueError: the robot does not fit the model.
    """
    config = published.model.config
    if (embodiment.action_dim, embodiment.state_dim) != (config.action_dim, config.state_dim):
        raise ValueError(
            f"Robot {embodiment.name!r} has {embodiment.action_dim} actions and {embodiment.state_dim} states, but the "
            f"model {config.action_dim} and {config.state_dim}."
        )
    text = ProcessorConfig(
        horizon=config.horizon,
        action_width=config.action_dim,
        state_width=config.state_dim,
        image_roles=embodiment.roles,
        levels={"subtask": 1.0},
        prompt="qwen2_vl",
        max_text=MAX_TEXT,
        action_normalization="min_max",
        state_normalization="z_score",
        augment=AUGMENT,
    )
    return Processor(text, [embodiment], [statistics], published.tokenizer)


def read_statistics(folder: Path) -> Statistics:
    """dataset_stats.json, beside the weights or in the folder above (where training writes its pickle).

    The stored limits of actions have their margin already, which is taken off here.

    Raises:
        FileNotFoundError: there is none; pickles are not read. ValueError: it is damaged.
    """
    path = next((p for p in (folder / STATISTICS, folder.parent / STATISTICS) if p.exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"Neither {folder} nor the folder above has {STATISTICS}. Published folders have dataset_stats.pkl, which "
            f"may run any code when it is read, so it is not read here. Where you trust it, make JSON of it: python -c "
            f"\"import json, pickle; d = pickle.load(open('dataset_stats.pkl', 'rb')); "
            f"json.dump({{k: v.tolist() for k, v in d.items()}}, open('{STATISTICS}', 'w'))\""
        )
    data = read_json(path)
    try:
        names = ("action_mean", "action_std", "action_min", "action_max", "qpos_mean", "qpos_std")
        mean, std, low, high, at, spread = (tuple(float(x) for x in data[name]) for name in names)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a DexVLA's statistics: {error!r}. Make it again from the pickle.") from error
    low, high = tuple(x + MARGIN for x in low), tuple(x - MARGIN for x in high)
    return Statistics(state=_vector(at, spread, at, at), action=_vector(mean, std, low, high))


def _vector(
    mean: tuple[float, ...], std: tuple[float, ...], low: tuple[float, ...], high: tuple[float, ...]
) -> VectorStatistics:
    """Quantiles, and the limits of states, are not known, and nothing here reads them."""
    return VectorStatistics(
        min=low, max=high, mean=mean, std=std, q01=low, q10=low, q50=mean, q90=high, q99=high, count=0
    )

"""Public weights into a fresh DM0: a Qwen3 language model and a Perception Encoder.

Projector, convolutions behind the tower and action expert stay as they were initialised: no public file holds them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visuomotor.models.assign import fill
from visuomotor.models.base import Model
from visuomotor.models.dm0.config import DM0Config
from visuomotor.models.dm0.names import NAMES, TOWER
from visuomotor.models.files import read_json, read_safetensors
from visuomotor.models.hub import TOKENIZER_FILES, find_weights
from visuomotor.models.report import TensorReport
from visuomotor.nn.vision import resize_positions
from visuomotor.text.qwen import read_qwen

__all__ = ["LLM_FILES", "VISION_FILES", "load_backbones"]

LLM_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", *TOKENIZER_FILES)
VISION_FILES = ("*.pt", "*.safetensors", "config.json")
NEW_ROW_NOISE = 0.1  # of the used rows' own deviation, in each dimension
# Of a public tower: its pooling and output norm, which DM0 replaces by convolutions, and a table without parameters.
_UNUSED_VISION = re.compile(r"^(ln_post\.|attn_pool\.|proj$|rope\.)")
_GAMMA = re.compile(r"\.ls_[12]\.gamma$")
Tensors = Iterator[tuple[str, Tensor]]


def load_backbones(
    model: Model, sources: Mapping[str, str], *, generator: torch.Generator | None = None
) -> TensorReport:
    """Fill the parts "llm" and "vision" of `model` from `sources`, {part: folder or name on the Hugging Face Hub}.

    Rows of the embedding that the public tokenizer does not use become the mean of those that it uses, plus noise
    from `generator`: a token that nobody trained is then neither likely nor impossible to be written, and no two are
    the same. Position tables are resized to the model's grid, a tower without LayerScale has gains of 1.

    Raises:
        FileNotFoundError: a source is not there. ValueError: it is of another architecture or size, or damaged.
    """
    unknown = set(sources) - {"llm", "vision"}
    if unknown:
        raise ValueError(f"Public weights fill 'llm' and 'vision', not {sorted(unknown)}.")
    reports = []
    if "llm" in sources:
        folder = find_weights(sources["llm"], LLM_FILES, option="--llm")
        reports.append(_load_llm(model, folder, generator or torch.Generator().manual_seed(0)))
    if "vision" in sources:
        folder = find_weights(sources["vision"], VISION_FILES, option="--vision")
        reports.append(_load_vision(model, folder))
    return TensorReport(
        loaded=tuple(name for report in reports for name in report.loaded),
        unexpected=tuple(name for report in reports for name in report.unexpected),
        ignored=tuple(name for report in reports for name in report.ignored),
    )


def _fill(model: Model, prefixes: tuple[str, ...], found: Tensors, folder: Path, ignored: list[str]) -> TensorReport:
    """Copy `found` (under the model's names); ValueError when a tensor below `prefixes` is not filled.

    `ignored` is read when `found` is exhausted, which may add to it.
    """
    own = {n: t for n, t in NAMES.state(model).items() if n.startswith(prefixes)}
    report = fill(own, found, ignored)
    report = replace(report, missing=tuple(name for name in report.missing if ".vit_downsampler" not in name))
    if report.missing or report.mismatched:
        raise ValueError(f"The weights in {folder} do not fit this model: {report}.")
    return report


# Language model ---------------------------------------------------------------------------------------------------


def _load_llm(model: Model, folder: Path, generator: torch.Generator) -> TensorReport:
    public = read_json(folder / "config.json")
    vocabulary = model.config.vocab_size
    used = _used_rows(folder, public.get("vocab_size", vocabulary))
    _require_same_llm(model.config, public, used, folder)
    tied, own_output = public.get("tie_word_embeddings", False), not model.config.tie_embeddings
    ignored: list[str] = []

    def tensors() -> Tensors:
        for name, tensor in read_safetensors(folder):
            if name == "lm_head.weight" and (tied or not own_output):
                ignored.append(name)
                continue
            if name in ("lm_head.weight", "model.embed_tokens.weight"):
                tensor = _extended(tensor, used, vocabulary, generator)
            yield name if name == "lm_head.weight" else f"model.llm.{name.removeprefix('model.')}", tensor
            if name == "model.embed_tokens.weight" and tied and own_output:
                yield "lm_head.weight", tensor

    return _fill(model, ("model.llm.", "lm_head."), tensors(), folder, ignored)


def _extended(rows: Tensor, used: int, size: int, generator: torch.Generator) -> Tensor:
    """float32[size, W]: the first `used` rows as they are, new ones near their mean."""
    known = rows[:used].float()
    noise = torch.randn(size - used, rows.shape[1], generator=generator)
    return torch.cat([known, known.mean(0) + NEW_ROW_NOISE * known.std(0) * noise])


def _used_rows(folder: Path, rows: int) -> int:
    """How many tokens the folder's tokenizer has: public tables are padded with rows that were never trained."""
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        return rows
    return min(rows, max(read_qwen(folder, add_dm0_tokens=False).get_vocab().values()) + 1)


def _require_same_llm(config: DM0Config, public: dict[str, Any], used: int, folder: Path) -> None:
    """ValueError naming what differs between config.json and the model."""
    llm = config.llm
    rope = public.get("rope_parameters") or public.get("rope_scaling") or {}
    theirs = {
        "model_type": public.get("model_type"),
        "rope_theta": rope.get("rope_theta", public.get("rope_theta")),
        "rope_type": rope.get("rope_type", "default"),
        "attention_bias": public.get("attention_bias", False),
        "hidden_act": public.get("hidden_act", "silu"),
    }
    ours = {
        "model_type": "qwen3", "rope_theta": llm.rope_theta, "rope_type": "default", "attention_bias": False,
        "hidden_act": "silu", "hidden_size": llm.width, "intermediate_size": llm.mlp_width,
        "num_hidden_layers": llm.layers, "num_attention_heads": llm.heads, "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_dim, "rms_norm_eps": llm.norm_eps,
    }  # fmt: skip
    theirs = {name: theirs[name] if name in theirs else public.get(name) for name in ours}
    wrong = [f"{name} is {theirs[name]}, the model's {ours[name]}" for name in ours if theirs[name] != ours[name]]
    if wrong:
        raise ValueError(
            f"The language model in {folder} is not of this model's size ({'; '.join(wrong)}); choose the size that "
            f"starts from it (small: Qwen3-0.6B, base: Qwen3-1.7B) or set the configuration's fields."
        )
    if used > config.vocab_size:
        raise ValueError(
            f"The language model in {folder} has {used} tokens, but the model {llm.vocab_size}; raise llm.vocab_size."
        )
    if config.tie_embeddings and not public.get("tie_word_embeddings", False):
        raise ValueError(f"The language model in {folder} has an output layer of its own; set tie_embeddings=False.")
    if llm.convolution:
        raise ValueError(
            f"llm.convolution is {llm.convolution}, but no public language model has one, and an untrained "
            f"one would spoil what it knows; set it to 0."
        )


# Vision tower -----------------------------------------------------------------------------------------------------


def _load_vision(model: Model, folder: Path) -> TensorReport:
    found, ignored = _tower_tensors(folder)
    if not any(_GAMMA.search(name) for name in found):
        ones = torch.ones(model.config.vision.width)
        found |= {n.removeprefix(TOWER): ones for n in NAMES.state(model) if n.startswith(TOWER) and _GAMMA.search(n)}
    if "positional_embedding" in found:
        table = found["positional_embedding"].float()
        found["positional_embedding"] = resize_positions(table, model.config.vision.grid)
    renamed = ((TOWER + name, tensor) for name, tensor in found.items())
    return _fill(model, (TOWER,), renamed, folder, ignored)


def _tower_tensors(folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """(the tower's tensors under bare names, names of those that DM0 has no use for)."""
    tensors = {name.removeprefix("module."): tensor for name, tensor in _read_vision(folder)}
    inside = "visual." if any(name.startswith("visual.") for name in tensors) else ""
    found: dict[str, Tensor] = {}
    ignored = []
    for name, tensor in tensors.items():
        bare = name.removeprefix(inside)
        if not name.startswith(inside) or _UNUSED_VISION.match(bare):  # with a prefix, the rest is the text tower
            ignored.append(name)
        else:
            found[bare] = tensor
    return found, ignored


def _read_vision(folder: Path) -> Tensors:
    files = sorted(folder.glob("*.pt"))
    if not files:
        yield from read_safetensors(folder)
        return
    if len(files) > 1:
        raise ValueError(f"{folder} holds several .pt files ({', '.join(f.name for f in files)}); keep one.")
    try:
        data = torch.load(files[0], map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler refuses with many types
        raise ValueError(f"{files[0]} holds more than tensors, or is damaged: {error}") from error
    for key in ("state_dict", "weights"):  # where training code keeps them
        data = data.get(key, data) if isinstance(data, dict) else {}
    yield from ((name, value) for name, value in data.items() if isinstance(value, Tensor))

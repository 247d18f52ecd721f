"""Published DM0 folders: config.json, sharded safetensors, norm_stats.json and tokenizer files, read and written.

A published folder does not say which normalisation its numbers mean, nor what the action numbers are. Both must be
given: `processor_of` takes an Embodiment, and says so when it has to guess the normalisation.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from visuomotor.atomic import whole_folder
from visuomotor.contract import Embodiment
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.data.statistics import Statistics, VectorStatistics
from visuomotor.locks import FolderLock
from visuomotor.models.dm0.config import DM0Config
from visuomotor.models.dm0.model import DM0
from visuomotor.models.dm0.names import LLM, NAMES
from visuomotor.models.dm0.tensors import PE_HEAD, Precision, assign, config_of, published_names
from visuomotor.models.files import INDEX, read_json, read_safetensors
from visuomotor.models.report import TensorReport
from visuomotor.text.qwen import write_qwen
from visuomotor.text.tokenizer import QWEN_EOS, TextTokenizer

__all__ = ["Published", "processor_of", "read_published", "write_published"]

log = logging.getLogger(__name__)
STATISTICS = "norm_stats.json"
SHARD_BYTES = 5_000_000_000
LIBERO_LENGTH = 2048  # tokenizer_config.json's model_max_length of DM0-libero; base 4096, Table30 100
Method = Literal["quantile", "mean_std"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a published folder holds. `config` is its config.json; `statistics` None where norm_stats.json is absent."""

    folder: Path
    model: DM0
    tokenizer: TextTokenizer
    statistics: Statistics | None
    config: dict[str, Any]
    report: TensorReport


def read_published(
    folder: Path | str,
    *,
    precision: Precision = "file",
    progress: bool | None = None,
    vision_heads: int | None = None,
) -> Published:
    """Read a folder as published for base, LIBERO, and Table30 specialists and generalists.

    precision: "file" keeps the types of the file, "float32" widens, "reference" casts as the published code does.
    progress: keep the progress linears of DM0-Prog; None keeps them where model_type says DM0-Prog (Table30 files
    carry them although they are not).
    vision_heads: of the tower; None takes heads of 64, as all published towers have.

    Raises:
        FileNotFoundError: a file is missing. ValueError: a file is damaged, tensors are missing, unexpected or of
        another shape (the error has the report's summary), or config.json says what our model does not compute.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    tokenizer = TextTokenizer.from_qwen(folder, add_dm0_tokens=False)
    tensors = published_names(dict(read_safetensors(folder)))
    if progress is None:
        progress = "prog" in str(config.get("model_type", ""))
    norm = f"{LLM}layers.0.self_attn.q_norm.weight"
    if norm not in tensors:
        raise ValueError(f"Not a published DM0 checkpoint: {norm} is missing in {folder}.")
    fields = config_of(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        tensors[norm].shape[0],
        {
            "horizon": int(config.get("chunk_size", 50)),
            "progress_token": progress,
            **({} if vision_heads is None else {"vision.heads": vision_heads}),
        },
    )
    _require_same_decoder(fields, config, folder)
    known = {"pad_id": tokenizer.pad_id, "newline_id": tokenizer.newline_id, "action_start_id": tokenizer.action_start}
    with torch.device("meta"):
        model = DM0(replace(fields, **known))
    report = assign(model, tensors, precision)
    if not report.complete:
        raise ValueError(f"{folder} does not fit the model that its own shapes describe: {report.summary()}.")
    statistics = _statistics(folder / STATISTICS) if (folder / STATISTICS).exists() else None
    return Published(
        folder=folder, model=model, tokenizer=tokenizer, statistics=statistics, config=config, report=report
    )


def processor_of(
    published: Published, embodiment: Embodiment, normalization: Method | None = None, *, max_text: int = 200
) -> Processor:
    """The processor that makes a policy of a published model: prompt, images and actions as in the published code.

    embodiment: the robot; its state and action dimensions are the first of the model's 32. Actions are absolute there,
    the model's are differences to the state at the chunk's start, grippers excepted.
    normalization: "quantile" (base, Table30) or "mean_std" (LIBERO); None guesses, and logs a warning.

    Raises:
        ValueError: no norm_stats.json, or the robot does not fit the model.
    """
    if published.statistics is None:
        raise ValueError(
            f"{published.folder} has no {STATISTICS}, so its actions cannot be brought into robot units. Copy that "
            f"file from the published checkpoint (DM0-base has none, because it is for no robot in particular)."
        )
    if normalization is None:
        normalization = _guess(published.folder)
        log.warning(
            "%s does not say which normalisation it means; %r is guessed. Say it: quantile (base, Table30) or mean_std "
            "(LIBERO).", published.folder, normalization,
        )  # fmt: skip
    width = published.model.config.action_dim
    robot = replace(
        embodiment,
        state=tuple(replace(c, normalization=normalization) for c in embodiment.state),
        action=tuple(replace(c, normalization=normalization) for c in embodiment.action),
    )
    config = ProcessorConfig(
        horizon=published.model.config.horizon,
        action_width=width,
        state_width=width,
        image_roles=robot.roles,
        image_size=published.model.config.vision.image_size,
        levels={},
        prompt="dm0",
        max_text=max_text,
        action_reference="chunk_start",
        wrap_angles=False,
        near_constant=0.0,
    )
    statistics = Statistics(
        state=_first(published.statistics.state, robot.state_dim, "state"),
        action=_first(published.statistics.action, robot.action_dim, "action"),
    )
    return Processor(config, [robot], [statistics], published.tokenizer)


def write_published(
    model: DM0,
    processor: Processor,
    folder: Path | str,
    *,
    shard_bytes: int = SHARD_BYTES,
    break_lock: bool = False,
) -> TensorReport:
    """Write a new folder in the published layout, which `read_published` and the published code read.

    Output layers are not written: the embedding serves as one, and the expert's is read by nobody.

    Raises:
        FileExistsError: the folder exists. ValueError: the published code cannot run this model.
        FolderInUse: another process or thread writes the folder; see `FolderLock`, also for `break_lock`.
    """
    folder = Path(folder)
    _require_publishable(model, processor)
    tensors = {name: tensor.detach().contiguous() for name, tensor in NAMES.state(model).items()}
    z_score = processor.embodiments[0].action[0].normalization == "mean_std"
    length = LIBERO_LENGTH if z_score else processor.config.max_text
    statistics = {"norm_stats": _norm_stats(model, processor)}
    with FolderLock(folder, beside=True, nested=True, break_lock=break_lock):
        if folder.exists():
            raise FileExistsError(f"{folder} exists already; choose another folder.")
        with whole_folder(folder) as partial:
            _write_tensors(tensors, partial, shard_bytes)
            (partial / "config.json").write_text(json.dumps(_published_config(model), indent=2) + "\n")
            (partial / STATISTICS).write_text(json.dumps(statistics, indent=2) + "\n")
            write_qwen(processor.tokenizer.inner, partial, max_length=length)
    return TensorReport(loaded=tuple(tensors))


def _norm_stats(model: DM0, processor: Processor) -> dict[str, Any]:
    statistics, width = processor.statistics[0], model.config.action_dim
    blocks = {"action": _norm_block(statistics.action, width), "state": _norm_block(statistics.state, width)}
    return {"default": {"min": -1, "max": 1}, **blocks}


def _write_tensors(tensors: Mapping[str, Tensor], folder: Path, shard_bytes: int) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, str(folder / file), metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    (folder / INDEX).write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}, indent=2) + "\n"
    )


def _published_config(model: DM0) -> dict[str, Any]:
    config = model.config

    def tower(width: int, mlp_width: int, vocabulary: int) -> dict[str, Any]:
        return {
            "model_type": "qwen3", "hidden_size": width, "intermediate_size": mlp_width,
            "num_hidden_layers": config.llm.layers, "num_attention_heads": config.llm.heads,
            "num_key_value_heads": config.llm.kv_heads, "head_dim": config.llm.head_dim, "vocab_size": vocabulary,
            "rope_theta": config.llm.rope_theta, "rms_norm_eps": config.llm.norm_eps, "hidden_act": "silu",
            "attention_bias": False, "max_position_embeddings": 40960, "tie_word_embeddings": False,
        }  # fmt: skip

    return {
        "model_type": "dexbotic_dm0_prog" if config.progress_token else "dexbotic_dm0",
        "architectures": ["DM0ForCausalLM"],
        "action_dim": config.action_dim,
        "chunk_size": config.horizon,
        "mm_vision_tower": f"pe_lang_l14_{config.vision.image_size}",
        "mm_projector_type": "linear4x",
        "image_aspect_ratio": "pad",
        "llm_config": tower(config.llm.width, config.llm.mlp_width, config.vocab_size),
        "action_config": tower(config.expert.width, config.expert.mlp_width, 151936),
        "bf16": True,
    }


def _require_publishable(model: DM0, processor: Processor) -> None:
    """ValueError naming what the published layout cannot say, or the published code cannot run."""
    config, text = model.config, processor.config
    robot, units = processor.embodiments[0], processor.units[0]
    change = units.reference
    methods = {component.normalization for component in (*robot.state, *robot.action)}
    absolute = all(component.reference == "absolute" for component in robot.action)
    said = {
        "llm.convolution": (config.llm.convolution, 0),
        "state_token": (config.state_token, "none"),
        "vision.downsamples": (config.vision.downsamples, 2),
        "tie_embeddings": (config.tie_embeddings, True),
        "the width of a vision head": (config.vision.width // config.vision.heads, PE_HEAD),
        "prompt": (text.prompt, "dm0"),
        "templates": (text.templates, "none"),
        "tags": (text.tags, False),
        "action_reference": (text.action_reference, "chunk_start"),
        "action_normalization": (text.action_normalization, "embodiment"),
        "state_normalization": (text.state_normalization, "embodiment"),
        "the number of embodiments": (len(processor.embodiments), 1),
        "one normalisation for all of state and action": (methods in ({"quantile"}, {"mean_std"}), True),
        "all actions absolute": (absolute, True),
        "actions paired with states by place": (change is None or (change.action == change.state).all(), True),
        "no dimension centred": (not (units.state.constant or units.action.constant), True),
        "a Qwen tokenizer": (processor.tokenizer.inner.token_to_id(QWEN_EOS) is not None, True),
    }
    wrong = [f"{name} is {given!r}, not {expected!r}" for name, (given, expected) in said.items() if given != expected]
    if wrong:
        raise ValueError(f"The published layout cannot hold this policy: {'; '.join(wrong)}.")


def _require_same_decoder(fields: DM0Config, config: Mapping[str, Any], folder: Path) -> None:
    """ValueError where config.json's decoders are not what the shapes, and our constants, say."""
    llm = fields.llm
    ours = {
        "rope_theta": llm.rope_theta, "rms_norm_eps": llm.norm_eps, "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads, "head_dim": llm.head_dim, "num_hidden_layers": llm.layers,
    }  # fmt: skip
    for block in ("llm_config", "action_config"):
        theirs = config.get(block) or {}
        differing = [name for name in ours if theirs.get(name, ours[name]) != ours[name]]
        wrong = [f"{name} is {theirs[name]}, not {ours[name]}" for name in differing]
        if wrong:
            raise ValueError(f"{folder / 'config.json'}, {block}: {'; '.join(wrong)}, so this is another model.")


def _guess(folder: Path) -> Method:
    path = folder / "tokenizer_config.json"
    length = read_json(path).get("model_max_length") if path.exists() else None
    return "mean_std" if length == LIBERO_LENGTH or "libero" in folder.name.lower() else "quantile"


def _statistics(path: Path) -> Statistics:
    """norm_stats.json, bare or under "norm_stats"; its min and max are the 1 % and 99 % quantiles."""
    data = read_json(path)
    data = data.get("norm_stats", data)
    return Statistics(state=_vector(data, "state", path), action=_vector(data, "action", path))


def _vector(data: Mapping[str, Any], what: str, path: Path) -> VectorStatistics:
    block = data.get(what)
    keys = ("min", "max", "mean", "std")
    if not isinstance(block, dict) or any(key not in block for key in keys):
        raise ValueError(f"{path} has no {what!r} with {', '.join(keys)}; it is not a DM0 norm_stats.json.")
    low, high, mean, std = (tuple(float(x) for x in block[key]) for key in keys)
    if len({len(low), len(high), len(mean), len(std)}) > 1:
        raise ValueError(f"{path}: min, max, mean and std of {what!r} have different lengths; copy the file again.")
    middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    return VectorStatistics(
        min=low, max=high, mean=mean, std=std, q01=low, q10=low, q50=middle, q90=high, q99=high, count=0
    )


def _first(statistics: VectorStatistics, dims: int, what: str) -> VectorStatistics:
    if len(statistics.mean) < dims:
        raise ValueError(
            f"The robot has {dims} {what} dimensions but the published statistics only {len(statistics.mean)}."
        )
    vectors = {name: value[:dims] for name, value in vars(statistics).items() if name != "count"}
    return VectorStatistics(count=statistics.count, **vectors)


def _norm_block(statistics: VectorStatistics, width: int) -> dict[str, list[float]]:
    def padded(values: Sequence[float]) -> list[float]:
        return [*values, *[0.0] * (width - len(values))]

    return {
        "min": padded(statistics.q01), "max": padded(statistics.q99), "mean": padded(statistics.mean),
        "std": padded(statistics.std),
    }  # fmt: skip

"""`visuomotor convert`: published checkpoints into ours, and back."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from visuomotor.cli.console import parse, say
from visuomotor.locks import FolderLock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from visuomotor.embodiment import Embodiment

READING = ("normalization", "precision", "progress", "tokenizer", "statistics", "base")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Turn a published DM0, CogACT or DexVLA into a checkpoint of ours, or a DM0 of ours into the published layout.

    Model and direction follow from what FOLDER holds. A published folder does not say which robot its numbers belong
    to: --robot does. DM0's does not say which normalisation they mean, either (--normalization); CogACT's has no
    tokenizer (--tokenizer).
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A published DM0 (config.json, safetensors, norm_stats.json, tokenizer files), a published DexVLA (the same with
    dataset_stats.json; may be LoRA adapters), a published CogACT run (config.json, dataset_statistics.json,
    checkpoints/*.pt) or one of its .pt files, or a checkpoint of ours."""
    out: Path
    """The folder to write."""
    robot: Annotated[str | None, tyro.conf.arg(metavar="NAME_OR_FILE")] = None
    """DM0: aloha, arx5, franka, ur5; CogACT: google_robot, widowx; or an embodiment.json."""
    normalization: Literal["quantile", "mean_std"] | None = None
    """DM0: what norm_stats.json means: quantile (base, Table30) or mean_std (LIBERO); guessed when it is not given."""
    precision: Literal["file", "float32", "reference"] = "file"
    """Types of the weights: as in the file, float32, or as DM0's published code casts them. Verbs compute in float32;
    load_policy(..., precision="file") keeps the types."""
    progress: Annotated[bool | None, tyro.conf.arg(metavar="{True,False}")] = None
    """DM0: keep the progress linears of DM0-Prog (default: where model_type says so; Table30 files carry them too)."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """LLaMA-2's tokenizer for a CogACT: a folder with tokenizer.json or tokenizer.model, or a name on the Hub."""
    statistics: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The data set whose statistics a CogACT acts by (default: that of the named robot, or the only one)."""
    base: Annotated[str | None, tyro.conf.arg(metavar="FOLDER_OR_NAME")] = None
    """DexVLA: folder or Hub name of the VLM under LoRA adapters (default: the one that they name)."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


def run(arguments: list[str]) -> int:
    options = parse("convert", Options, arguments)
    with FolderLock(options.out, beside=True, break_lock=options.break_lock):
        return convert(options)


def convert(options: Options) -> int:
    """Convert in the direction that follows from the folder."""
    if options.out.exists():
        raise FileExistsError(f"{options.out} exists already; choose another --out.")
    return write(options) if (options.folder / "processor.json").exists() else read(options)


def read(options: Options) -> int:
    """A published checkpoint into one of ours."""
    from visuomotor.models import MODELS, find_spec
    from visuomotor.policy import Policy

    specs = {name: find_spec(name) for name in MODELS}
    adapters = {name: spec.checkpoint for name, spec in specs.items() if spec.checkpoint is not None}
    name = next((name for name, adapter in adapters.items() if adapter.recognise(options.folder)), None)
    if name is None:
        known = "; ".join(f"{name}: {adapter.contents}" for name, adapter in adapters.items())
        raise ValueError(
            f"{options.folder} is no checkpoint of ours, and no published one that is known ({known}). Copy the folder "
            f"again, whole, or give another."
        )
    robot = find_robot(options.robot, specs[name].robots)
    published = adapters[name].read(options.folder, robot, **reading_options(options, name, adapters[name].read))
    say(f"{options.folder}: {published.summary}")
    policy = Policy(published.model, published.processor, **published.settings)
    origin = {"converted_from": options.folder.name, "published_config": published.config}
    say(f"checkpoint: {policy.save(options.out, origin)}")
    return 0


def reading_options(options: Options, model: str, reader: Any) -> dict[str, Any]:
    """The options that were given; ValueError for one that means nothing for this model."""
    given = {name: getattr(options, name) for name in READING if getattr(options, name) is not None}
    known = inspect.signature(reader).parameters
    for name in (name for name in given if name not in known):
        names = ", ".join(f"--{other}" for other in READING if other in known)
        raise ValueError(f"{options.folder} holds a {model}, for which --{name} means nothing; it takes {names}.")
    return given


def write(options: Options) -> int:
    """A checkpoint of ours into the published layout of its model."""
    from visuomotor.models import MODELS, find_spec, spec_of
    from visuomotor.policy import load_policy

    policy = load_policy(options.folder)
    spec = spec_of(policy.model.config)
    if spec is None or spec.checkpoint is None or spec.checkpoint.write is None:
        adapters = {name: find_spec(name).checkpoint for name in MODELS}
        names = ", ".join(name for name, adapter in adapters.items() if adapter is not None and adapter.write)
        raise ValueError(
            f"{options.folder} holds a {spec.name if spec else 'model without a specification'}; only these have a "
            f"published layout that can be written: {names}."
        )
    report = spec.checkpoint.write(policy.model, policy.processor, options.out)
    say(f"{options.out}: {len(report.loaded)} tensors written")
    return 0


def find_robot(name: str | None, robots: "Mapping[str, Embodiment]") -> "Embodiment":
    """The embodiment of a name or file."""
    from visuomotor.embodiment import Embodiment

    known = f"one of {', '.join(robots)}, or an embodiment.json" if robots else "an embodiment.json"
    if name is None:
        raise ValueError(f"say which robot the checkpoint drives: --robot {known}.")
    if name in robots:
        return robots[name]
    if not Path(name).is_file():
        raise ValueError(f"there is no robot {name!r}; give {known}.")
    return Embodiment.load(Path(name))

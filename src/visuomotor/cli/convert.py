"""`visuomotor convert`: published checkpoints into ours, and back."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from visuomotor.cli.console import parse, say
from visuomotor.locks import FolderLock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from visuomotor.embodiment import Embodiment


@dataclass(frozen=True, kw_only=True)
class Options:
    """Turn a published DM0, pi0, CogACT or DexVLA into a checkpoint of ours, or a DM0 or pi0 of ours back.

    Model and direction follow from what FOLDER holds. A published folder does not say which robot its numbers belong
    to: --robot does. DM0's does not say which normalisation they mean, either (--normalization); CogACT's and pi0's
    have no tokenizer (--tokenizer).
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """A published DM0 (config.json, safetensors, norm_stats.json, tokenizer files), a published DexVLA (the same with
    dataset_stats.json; may be LoRA adapters), a pi0 or pi0.5 of openpi (config.json, model.safetensors, assets) or of
    LeRobot, a published CogACT run (config.json, dataset_statistics.json, checkpoints/*.pt) or one of its .pt files,
    or a checkpoint of ours."""
    out: Path
    """The folder to write."""
    robot: Annotated[str | None, tyro.conf.arg(metavar="NAME_OR_FILE")] = None
    """DM0: aloha, arx5, franka, ur5; CogACT: google_robot, widowx; or an embodiment.json."""
    normalization: Literal["quantile", "mean_std"] | None = None
    """DM0: what norm_stats.json means: quantile (base, Table30) or mean_std (LIBERO); guessed when it is not given.
    pi0: in place of the usual one."""
    precision: Literal["file", "float32", "reference"] = "file"
    """Types of the weights: as in the file, float32, or as DM0's published code casts them. Verbs compute in float32;
    load_policy(..., precision="file") keeps the types."""
    progress: Annotated[bool | None, tyro.conf.arg(metavar="{True,False}")] = None
    """DM0: keep the progress linears of DM0-Prog (default: where model_type says so; Table30 files carry them too)."""
    tokenizer: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """LLaMA-2's tokenizer for a CogACT, PaliGemma's for a pi0: a folder with tokenizer.json (CogACT: or
    tokenizer.model), or a name on the Hub."""
    statistics: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The data set (CogACT) or asset (openpi's pi0) whose statistics the policy acts by (default: that of the named
    robot, or the only one)."""
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
    if (options.folder / "processor.json").exists():
        return to_published(options)
    if options.folder.is_file() or (options.folder / "dataset_statistics.json").exists():
        return from_cogact(options)
    from visuomotor.models.dexvla.convert import is_published
    from visuomotor.models.pi0.folders import recognise

    if recognise(options.folder):
        return from_pi0(options)
    return from_dexvla(options) if is_published(options.folder) else from_published(options)


def from_dexvla(options: Options) -> int:
    from visuomotor.models.dexvla.convert import MAX_NEW_TOKENS, processor_of, read_published, read_statistics
    from visuomotor.policy import Policy

    robot, statistics = find_robot(options.robot, {}), read_statistics(options.folder)  # no robot is published with one
    published = read_published(options.folder, base=options.base, precision=options.precision)
    say(f"{options.folder}: {published.report.summary()}, {published.adapters} adapters merged")
    processor = processor_of(published, robot, statistics)
    policy = Policy(published.model, processor, think=("subtask",), max_new_tokens=MAX_NEW_TOKENS)
    origin = {"converted_from": options.folder.name, "published_config": published.config}
    say(f"checkpoint: {policy.save(options.out, origin)}")
    return 0


def from_pi0(options: Options) -> int:
    from visuomotor.models.pi0.folders import read_policy
    from visuomotor.policy import Policy

    published = read_policy(
        options.folder,
        find_robot(options.robot, {}),
        precision=options.precision,
        normalization=options.normalization,
        tokenizer=options.tokenizer,
        statistics=options.statistics,
    )
    say(f"{options.folder}: {published.summary}")
    origin = {"converted_from": options.folder.name, "published_config": published.config}
    say(f"checkpoint: {Policy(published.model, published.processor).save(options.out, origin)}")
    return 0


def from_published(options: Options) -> int:
    from visuomotor.models.dm0.convert import processor_of, read_published
    from visuomotor.models.dm0.robots import ROBOTS
    from visuomotor.policy import Policy

    robot = find_robot(options.robot, ROBOTS)
    published = read_published(options.folder, precision=options.precision, progress=options.progress)
    say(f"{options.folder}: {published.report.summary()}")
    processor = processor_of(published, robot, options.normalization)
    origin = {"converted_from": options.folder.name, "published_config": published.config}
    say(f"checkpoint: {Policy(published.model, processor).save(options.out, origin)}")
    return 0


def from_cogact(options: Options) -> int:
    from visuomotor.models.cogact.robots import ROBOTS
    from visuomotor.models.cogact.run_folder import processor_of, read_run
    from visuomotor.models.hub import TOKENIZER_FILES, find_weights
    from visuomotor.policy import Policy
    from visuomotor.text.tokenizer import TextTokenizer

    if options.precision == "reference":
        raise ValueError("precision 'reference' is DM0's; a CogACT keeps its file's types, or takes float32.")
    if options.tokenizer is None:
        raise ValueError("a published CogACT has no tokenizer: --tokenizer FOLDER with LLaMA-2's tokenizer.")
    robot = find_robot(options.robot, ROBOTS)
    words = TextTokenizer.from_llama(find_weights(options.tokenizer, TOKENIZER_FILES, option="--tokenizer"))
    published = read_run(options.folder)
    say(f"{options.folder}: {published.report.summary()}")
    model = published.model.float() if options.precision == "float32" else published.model
    processor = processor_of(published, robot, words, options.statistics)
    origin = {"converted_from": options.folder.name, "published_config": dict(published.config)}
    say(f"checkpoint: {Policy(model, processor).save(options.out, origin)}")
    return 0


def to_published(options: Options) -> int:
    from visuomotor.models.dm0 import DM0
    from visuomotor.models.dm0.convert import write_published
    from visuomotor.models.pi0 import Pi0
    from visuomotor.models.pi0.folders import write_policy
    from visuomotor.policy import load_policy

    policy = load_policy(options.folder)
    if isinstance(policy.model, Pi0):
        report = write_policy(policy.model, policy.processor, options.out)
    elif isinstance(policy.model, DM0):
        report = write_published(policy.model, policy.processor, options.out)
    else:
        raise ValueError(f"{options.folder} holds neither DM0 nor pi0, which alone have a layout that can be written.")
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

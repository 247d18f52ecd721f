"""Fine-tuning any checkpoint on one's own data."""

from pathlib import Path
from typing import Any, Literal

import torch

from visuomotor.contract import Embodiment, Mixture, ProcessorSource, Run, Source, Stage
from visuomotor.data.lerobot import Dataset
from visuomotor.data.processor import Processor
from visuomotor.models import config_from_json, find_spec, make_model
from visuomotor.models.files import read_json
from visuomotor.recipes.own_data import available_levels, conversation_sources

__all__ = ["finetune"]


def finetune(
    data: str,
    start: str,
    conversations: str | None = None,
    new_robot: bool = False,
    statistics: Literal["checkpoint", "data"] = "checkpoint",
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    lora: int = 0,
    freeze_prefix: bool = False,
    seed: int = 0,
) -> Run:
    """Fine-tune a checkpoint (--from) on a LeRobot v3 data set (--data) of the same embodiment, or of a new robot.

    new_robot: keep the checkpoint's weights and words, but take embodiment and statistics from the data.
    statistics: normalise by the checkpoint's statistics, so that its actions keep their meaning, or by the data's
    own, when the ranges differ much.
    lora: rank of adapters through which the language model learns, its tower and words standing still; 0 trains all.
    freeze_prefix: the vision-language model stands still, the action expert learns alone.
    conversations: a LLaVA file (.json, .jsonl), images beside it, that is learnt from beside the robot's data.

    Raises:
        ValueError: data and checkpoint are of different embodiments, or a new robot has more dimensions than the
        model. FileNotFoundError: one of them is missing.
    """
    folder = Path(start)
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, so {folder} is not a checkpoint; give e.g. OUT/checkpoints/step-000500."
        )
    dataset = Dataset(data)
    parent = Processor.load(folder)
    processor: dict[str, Any] = {}
    source = ProcessorSource(checkpoint=start, statistics=statistics)
    if new_robot:
        source = ProcessorSource(checkpoint=start, statistics="data", embodiment="data")
        processor["image_roles"] = _fitting_roles(dataset, parent, start)
    else:
        _require_known_robot(dataset, data, parent, folder)
    levels = available_levels(dataset, parent.config.levels)
    if levels != parent.config.levels:
        processor["levels"] = levels
    model, config = config_from_json(read_json(path))
    stage = Stage(
        name="train",
        steps=steps,
        batch_size=batch_size,
        mixture=Mixture(sources=(Source(name="robot", path=data), *conversation_sources(conversations))),
        trains={part: learning_rate for part in _learning_parts(model, config, lora, freeze_prefix)},
        lora=lora,
        start=start,
        validate_every=250,
        checkpoint_every=250,
        seed=seed,
    )
    return Run(
        name="finetune",
        model=model,
        config=config,
        stages={"train": stage},
        processor=processor,
        processor_from=source,
    )


def _learning_parts(model: str, config: Any, lora: int, freeze_prefix: bool) -> tuple[str, ...]:
    if lora and freeze_prefix:
        raise ValueError(f"lora {lora} teaches the language model, but freeze_prefix keeps it still; choose one.")
    if not (lora or freeze_prefix):
        return ("*",)
    with torch.device("meta"):
        parts = make_model(model, config).parts()
    acting = tuple(part for part in find_spec(model).acting if part in parts)
    if "llm" not in parts or not acting:
        raise ValueError(
            f"{'lora' if lora else 'freeze_prefix'} needs a language model and parts that act behind it, but the parts "
            f"of {model!r} are {', '.join(parts)}; leave it out."
        )
    return acting if freeze_prefix else ("llm", *acting)


def _require_known_robot(dataset: Dataset, data: str, parent: Processor, folder: Path) -> None:
    robot, driven = dataset.require_embodiment(), Embodiment.load(folder / "embodiment.json")
    if not all(known.differences(robot) for known in parent.embodiments):
        return
    try:
        robot.require_compatible(driven, this=f"Data set {data}", that=f"checkpoint {folder}")
    except ValueError as error:
        raise ValueError(
            f"{error} To teach the checkpoint a new robot, pass --new-robot true (its action statistics then come "
            f"from the data)."
        ) from error


def _fitting_roles(dataset: Dataset, parent: Processor, start: str) -> tuple[str, ...]:
    """The data's camera roles; ValueError if its vectors do not fit into the checkpoint's widths."""
    robot = dataset.require_embodiment()
    for what, has, fits in (
        ("action", robot.action_dim, parent.config.action_width),
        ("state", robot.state_dim, parent.config.state_width),
    ):
        if has > fits:
            raise ValueError(
                f"Robot {robot.name!r} of {dataset.root} has {has} {what} dimensions, but checkpoint {start} has room "
                f"for {fits}; start from a wider checkpoint, or train from nothing with the recipe own-data."
            )
    return robot.roles

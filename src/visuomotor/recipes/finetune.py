"""Fine-tuning any checkpoint on one's own data."""

import json
from pathlib import Path
from typing import Any, Literal

from visuomotor.contract import Embodiment, Mixture, Run, Source, Stage
from visuomotor.data.lerobot import Dataset
from visuomotor.models import config_from_json

__all__ = ["finetune"]


def finetune(
    data: str,
    start: str,
    statistics: Literal["checkpoint", "data"] = "checkpoint",
    steps: int = 2000,
    batch_size: int = 64,
    learning_rate: float = 1e-4,
    seed: int = 0,
) -> Run:
    """Fine-tune a checkpoint (--from) on a LeRobot v3 data set (--data) of the same embodiment.

    statistics: normalise by the checkpoint's statistics, so that its actions keep their meaning, or by the data's
    own, when the ranges differ much.

    Raises:
        ValueError: data and checkpoint are of different embodiments. FileNotFoundError: one of them is missing.
    """
    folder = Path(start)
    path = folder / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing, so {folder} is not a checkpoint; give e.g. OUT/checkpoints/step-000500."
        )
    robot = Embodiment.load(folder / "embodiment.json")
    dataset = Dataset(data)
    dataset.require_embodiment().require_compatible(robot, this=f"Data set {data}", that=f"checkpoint {start}")
    try:
        model, config = config_from_json(json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}. Copy the checkpoint again.") from error
    processor: dict[str, Any] = {"checkpoint": start}
    if statistics == "data":
        processor["statistics"] = "data"
    stage = Stage(
        name="train",
        steps=steps,
        batch_size=batch_size,
        mixture=Mixture(sources=(Source(name="robot", path=data),)),
        trains={"*": learning_rate},
        start=start,
        validate_every=250,
        checkpoint_every=250,
        seed=seed,
    )
    return Run(name="finetune", model=model, config=config, stages={"train": stage}, processor=processor)

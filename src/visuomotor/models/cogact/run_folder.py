"""A published run: config.json, dataset_statistics.json and checkpoints/*.pt, as a policy of ours.

The files do not hold LLaMA-2's tokenizer, and do not say which robot their numbers belong to: both must be given.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from visuomotor.backbones.towers import PrismaticVision
from visuomotor.contract import Component, Embodiment
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.data.statistics import Statistics, VectorStatistics
from visuomotor.heads.diffusion_transformer import ActionModel
from visuomotor.models.cogact.config import ACTION_MODEL_SIZES, SIZES
from visuomotor.models.cogact.convert import Published, read_published
from visuomotor.models.cogact.model import CogACT
from visuomotor.models.cogact.robots import DATASETS
from visuomotor.models.files import read_json
from visuomotor.models.report import TensorReport
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["PublishedRun", "find_checkpoint", "model_of", "processor_of", "read_run"]

log = logging.getLogger(__name__)
STATISTICS = "dataset_statistics.json"
MAX_TEXT = 256


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """What a run folder holds. `config` is its config.json, `statistics` its statistics by data set."""

    model: CogACT
    statistics: Mapping[str, Any]
    config: Mapping[str, Any]
    report: TensorReport


def find_checkpoint(path: Path | str) -> Path:
    """The `.pt` file of a run folder that has one, or the one that is given itself.

    Raises:
        FileNotFoundError: there is none. ValueError: there are several.
    """
    path = Path(path)
    if path.is_file():
        return path
    found = sorted((path / "checkpoints").glob("*.pt"))
    if not found:
        raise FileNotFoundError(f"{path} has no checkpoints/*.pt; copy the run folder again, whole.")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ValueError(f"{path} has several checkpoints ({names}); give the path of one of them instead.")
    return found[0]


def read_run(path: Path | str, **heads: Any) -> PublishedRun:
    """Read a run folder, or the run of a `.pt` file in its folder `checkpoints`; `heads` as for `read_published`.

    A run without an action model (Prismatic, OpenVLA) gets a fresh one of the default size, and a warning says so.

    Raises:
        FileNotFoundError: a file is missing. ValueError: a file is damaged, or its tensors do not fit.
    """
    file = find_checkpoint(path)
    folder = file.parents[1]
    statistics, config = read_json(folder / STATISTICS), read_json(folder / "config.json")
    published = read_published(file, **heads)
    model = model_of(published)
    if published.action_model is None:
        log.warning("%s has no action model; it gets a fresh one, which must be trained before it acts.", file)
    action = (
        tuple(f"action_model.{name}" for name in published.action_model.state_dict()) if published.action_model else ()
    )
    vlm = tuple(f"vlm.{name}" for name in published.report.loaded)
    report = TensorReport(loaded=(*vlm, *action), ignored=published.report.ignored)
    return PublishedRun(model=model, statistics=statistics, config=config, report=report)


def model_of(published: Published) -> CogACT:
    """The parts of a published file as one model, sharing their tensors."""
    action, backbone = published.action_model, published.backbone
    llm, vision = backbone.llm.config, backbone.vision
    assert isinstance(vision, PrismaticVision)
    if action is None:
        action = ActionModel(replace(ACTION_MODEL_SIZES["B"], token_size=llm.width))
    parts = {"dinov2": vision.dinov2.config, "siglip": vision.siglip.config, "llm": llm}
    with torch.device("meta"):
        model = CogACT(replace(SIZES["base"], **parts, action_model=action.config))
    model.backbone, model.head.model = backbone, action
    for parameter in model.parameters():
        if parameter.untyped_storage().nbytes() != parameter.nbytes:  # a part of a larger one cannot be saved
            parameter.data = parameter.data.clone()
    return model


def processor_of(
    run: PublishedRun, embodiment: Embodiment, tokenizer: TextTokenizer, dataset: str | None = None
) -> Processor:
    """The processor that makes a policy of a published run: prompt, images and actions as in the published code.

    embodiment: the robot; dimensions that the statistics mask are taken as they are, the others by quantiles. Its state
    is read by nobody. dataset: whose statistics, None: those of the published robot of that name, or the only ones.

    Raises:
        ValueError: no such statistics, or they do not fit the robot.
    """
    dataset = _dataset(run.statistics, embodiment, dataset)
    block = run.statistics[dataset].get("action")
    keys = ("min", "max", "mean", "std", "q01", "q99")
    if not isinstance(block, dict) or any(key not in block for key in keys):
        raise ValueError(f"{STATISTICS} has no actions with {', '.join(keys)} for {dataset!r}; copy it again.")
    width, action = run.model.config.action_dim, {key: tuple(float(x) for x in block[key]) for key in keys}
    mask = block.get("mask", [True] * width)
    if {len(mask), embodiment.action_dim, *map(len, action.values())} != {width}:
        raise ValueError(
            f"The model has {width} action dimensions, robot {embodiment.name!r} {embodiment.action_dim}, and the "
            f"statistics of {dataset!r} {len(mask)}; give the robot that this data set was recorded with."
        )
    robot = replace(
        embodiment,
        state=tuple(replace(c, normalization="none") for c in embodiment.state),
        action=_masked(embodiment, mask),
    )
    config = ProcessorConfig(
        horizon=run.model.config.horizon,
        action_width=width,
        state_width=max(1, robot.state_dim),
        image_roles=robot.roles,
        image_size=None,  # the model squeezes what it gets, as published
        levels={},
        prompt="cogact",
        max_text=MAX_TEXT,
        near_constant=0.0,
        past_end="still",
        clip_actions=True,
        binary_grippers=True,
    )
    count = int(run.statistics[dataset].get("num_transitions", 0))
    return Processor(
        config, [robot], [Statistics(state=_unit(robot.state_dim), action=_vector(action, count))], tokenizer
    )


def _dataset(statistics: Mapping[str, Any], embodiment: Embodiment, dataset: str | None) -> str:
    names = list(statistics)
    chosen = dataset or DATASETS.get(embodiment.name) or (names[0] if len(names) == 1 else None)
    if chosen is None or chosen not in statistics:
        given = f"has none of {chosen!r}" if chosen else f"has those of {len(names)} data sets"
        raise ValueError(f"{STATISTICS} {given}; choose one of {', '.join(names)} (--statistics NAME).")
    return chosen


def _masked(embodiment: Embodiment, mask: list[bool]) -> tuple[Component, ...]:
    """The action's components, normalised by quantiles where the mask says so, else not at all."""
    found = []
    for component in embodiment.action:
        own = set(map(bool, mask[embodiment.action_slices()[component.name]]))
        if len(own) > 1:
            raise ValueError(
                f"The statistics normalise some dimensions of {component.name!r} and not others; describe them as "
                f"components of their own."
            )
        found.append(replace(component, normalization="quantile" if own == {True} else "none"))
    return tuple(found)


def _vector(action: Mapping[str, tuple[float, ...]], count: int) -> VectorStatistics:
    """Published files have two quantiles; nothing reads those that stand in for the others."""
    low, high = action["q01"], action["q99"]
    middle = tuple((a + b) / 2 for a, b in zip(low, high, strict=True))
    return VectorStatistics(q10=low, q50=middle, q90=high, count=count, **action)


def _unit(dims: int) -> VectorStatistics:
    zero, one = (0.0,) * dims, (1.0,) * dims
    quantiles = {"q01": zero, "q10": zero, "q50": zero, "q90": one, "q99": one}
    return VectorStatistics(min=zero, max=one, mean=zero, std=one, count=0, **quantiles)

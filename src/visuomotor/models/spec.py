"""The description of a model that command line, recipes, trainer and policy ask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visuomotor.contract import Embodiment
from visuomotor.data.processor import Processor
from visuomotor.models.base import Model
from visuomotor.models.names import NameTable
from visuomotor.models.report import TensorReport

__all__ = ["LORA_TARGETS", "CheckpointAdapter", "ModelSpec", "PublishedPolicy"]

# Matrices of attention and MLP that are called as modules. DM0's vision tower multiplies its matrices by LayerScale
# before it applies them, and reads the weights themselves, which an adapter would not change.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, kw_only=True)
class PublishedPolicy:
    """A published checkpoint as model and processor.

    config    its own configuration file, for the record
    settings  of the Policy: what the published code does beside the model
    summary   one line about its tensors
    """

    model: Model
    processor: Processor
    config: Mapping[str, Any]
    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CheckpointAdapter:
    """Published checkpoints of a model.

    contents   what they consist of, for messages: "config.json, safetensors, ..."
    recognise  whether a folder, or a file, is one
    read       (path, robot, **options) -> PublishedPolicy; `options` are those of `visuomotor convert` that it names
    write      (model, processor, folder) -> report on the tensors; None: that direction does not exist
    """

    contents: str
    recognise: Callable[[Path], bool]
    read: Callable[..., PublishedPolicy]
    write: Callable[[Any, Processor, Path], TensorReport] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model.

    name          as on the command line and in config.json; of a model from a user's file, FILE.py:NAME
    config        type of its configuration, which belongs to no other model
    presets       {size: configuration}
    build         configuration -> model with fresh weights
    layout        name of the text layout that it reads; None: the processor chooses one
    checkpoint    its published form
    names         published tensor names and its own, both ways; checkpoints up to format 2 had the published ones
    weights       {part: names on the Hugging Face Hub of public weights that it can start from}
    robots        robots of its published checkpoints by name
    acting        parts that make actions, behind a language model; a configuration may lack some
    sampling_fields   fields of its configuration that change what it samples, not what it learnt
    lora_targets  last names of the matrices that adapters may stand beside
    first_format  reads the configuration of a config.json of the first format
    recipe        name of the recipe that trains it on a user's own data
    exceptions    {property that models have in common: where its published form departs from it}
    """

    name: str
    config: type
    presets: Mapping[str, Any]
    build: Callable[[Any], Model]
    layout: str | None = None
    checkpoint: CheckpointAdapter | None = None
    names: NameTable | None = None
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    robots: Mapping[str, Embodiment] = field(default_factory=dict)
    acting: tuple[str, ...] = ()
    sampling_fields: tuple[str, ...] = ()
    lora_targets: tuple[str, ...] = LORA_TARGETS
    first_format: Callable[[dict[str, Any]], Any] | None = None
    recipe: str | None = None
    exceptions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [size for size, preset in self.presets.items() if type(preset) is not self.config]
        if wrong or not self.presets:
            given = f"preset {wrong[0]!r} is a {type(self.presets[wrong[0]]).__name__}" if wrong else "it has no preset"
            raise ValueError(f"Model {self.name!r} is configured by {self.config.__name__}, but {given}.")

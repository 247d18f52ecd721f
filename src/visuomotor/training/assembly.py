"""From a Run to what the trainer needs: data sets, processor, model, loaders."""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from visuomotor.contract import Batch, Embodiment, Mixture, Run, Stage
from visuomotor.data.conversations import Conversations
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.loader import Loader, held_out
from visuomotor.data.processor import Processor
from visuomotor.data.sources import open_source
from visuomotor.models import make_model
from visuomotor.models.base import Model
from visuomotor.models.fit import fitted, processor_config
from visuomotor.models.hub import TOKENIZER_FILES, find_weights
from visuomotor.text import scene_questions
from visuomotor.text.llama import is_llama
from visuomotor.text.tokenizer import TextTokenizer
from visuomotor.training.step import seed_for

__all__ = [
    "DataSource",
    "build_model",
    "build_processor",
    "load_processor",
    "open_datasets",
    "public_tokenizer",
    "train_loader",
    "validation_batches",
]

log = logging.getLogger(__name__)
MEANING = ("action_reference", "state_of")
BadSamples = Literal["stop", "quarantine"]


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """What loaders draw from: {source name: data set}, the processor, and what a bad sample does."""

    datasets: Mapping[str, Any]
    processor: Processor
    bad_samples: BadSamples = "stop"
    quarantine: Path | None = None


def open_datasets(run: Run, cache: Path) -> dict[str, Any]:
    """{source name: data set} over all stages; sources with the same path and options share one.

    `Source.options["cache"]`: true, or [height, width], keeps decoded frames in a memory map below `cache`. Objective
    "conversation" reads a LLaVA file, whose images lie in the folder `Source.options["images"]`.
    """
    found: dict[str, Any] = {}
    opened: dict[tuple[str, str], Any] = {}
    for source in (s for stage in run.stages.values() for s in stage.mixture.sources):
        if source.path is None:
            raise ValueError(f"Source {source.name!r} has no path; give it the folder of a LeRobot v3 data set.")
        size, images = source.options.get("cache"), source.options.get("images")
        talk = source.options.get("objective") == "conversation"
        key = (source.path, str(images if talk else size))
        if key not in opened:
            opened[key] = Conversations(source.path, images) if talk else _robot_data(source.path, size, cache)
        if source.name in found and found[source.name] is not opened[key]:
            raise ValueError(f"Two stages call different data {source.name!r}; give each source a name of its own.")
        found[source.name] = opened[key]
    return found


def _robot_data(path: str, size: Any, cache: Path) -> EpisodeSource:
    dataset = open_source(path)
    dataset.require_embodiment()
    return dataset.cached(None if size is True else tuple(size), cache) if size else dataset


def build_processor(run: Run, datasets: Mapping[str, Any], *, skip_bad: bool = False) -> Processor:
    """The processor of a run, from its fields, its data and what `Run.processor_from` names."""
    source = run.processor_from
    unique = list({id(d): d for d in datasets.values()}.values())
    if source.checkpoint is None:
        public = source.tokenizer
        config = processor_config(run)
        words = None if public is None else public_tokenizer(public, dm0=config.layout.extends_vocabulary)
        return Processor.build(config, unique, _corpus(run), tokenizer=words, skip_bad=skip_bad)
    parent = Processor.load(Path(source.checkpoint))
    robots = {name: d for name, d in datasets.items() if not isinstance(d, Conversations)}
    for name, dataset in robots.items() if source.embodiment == "checkpoint" else ():
        parent.embodiment_index(dataset.embodiment, name=f"Data set {name!r} ({dataset.root})")
    config = processor_config(run, parent.config)
    if source.statistics == "data":
        return Processor.build(config, unique, (), tokenizer=parent.tokenizer, fast=parent.fast, skip_bad=skip_bad)
    meaning = [f"processor.{name}" for name in MEANING if name in run.processor]
    if config.action_reference == "chunk_start" and config.horizon != parent.config.horizon:
        meaning.append("The horizon")  # differences to a chunk's start are larger at the end of longer chunks
    if meaning:
        raise ValueError(
            f"{meaning[0]} changes what actions mean, but statistics come from {source.checkpoint}; "
            f"set processor_from.statistics to data."
        )
    return Processor(config, parent.embodiments, parent.statistics, parent.tokenizer, parent.fast)


def public_tokenizer(source: str, *, dm0: bool = True) -> TextTokenizer:
    """The tokenizer of a public LLaMA-2 or Qwen (folder or Hub name); `dm0`: a Qwen with the tokens that DM0 adds."""
    folder = find_weights(source, TOKENIZER_FILES, option="--llm")
    return TextTokenizer.from_llama(folder) if is_llama(folder) else TextTokenizer.from_qwen(folder, add_dm0_tokens=dm0)


def _corpus(run: Run) -> tuple[str, ...]:
    """The run's sentences, and those of the questions that its sources ask."""
    sources = [source for stage in run.stages.values() for source in stage.mixture.sources]
    asks = any(source.options.get("objective") == "questions" for source in sources)
    return (*run.corpus, *scene_questions.PHRASES) if asks else run.corpus


def driven_robot(run: Run, datasets: Mapping[str, Any], processor: Processor) -> Embodiment:
    """Whose policy the run makes: that of the first robot in its last stage."""
    for source in list(run.stages.values())[-1].mixture.sources:
        if not isinstance(datasets[source.name], Conversations):
            return processor.embodiments[processor.embodiment_index(datasets[source.name].require_embodiment())]
    return processor.embodiments[0]


def load_processor(folder: Path) -> Processor:
    """The processor that a run under way has saved."""
    return Processor.load(folder)


def build_model(run: Run, processor: Processor) -> Model:
    """The run's model; what the recipe cannot know follows the processor: token ids, robots.

    Raises:
        ValueError: a source teaches text alone, but the model has no output layer over the vocabulary.
    """
    model = make_model(run.model, fitted(run.config, processor))
    sources = [source for stage in run.stages.values() for source in stage.mixture.sources]
    texts = [source.name for source in sources if source.options.get("objective", "robot") != "robot"]
    if texts and not model.writes:
        raise ValueError(
            f"Source {texts[0]!r} has questions and answers, but this model has no output layer over the vocabulary to "
            f"learn them with; leave the source out, or give the model one, e.g. text_output of a CogACT."
        )
    return model


def train_loader(stage: Stage, data: DataSource) -> Loader:
    """The stage's endless stream of training batches."""
    return Loader(
        stage.mixture,
        data.processor,
        batch_size=stage.batch_size,
        seed=seed_for(stage.seed, "data", stage.name),
        datasets=data.datasets,
        bad_samples=data.bad_samples,
        quarantine=data.quarantine,
        rows_may_mix_views=stage.mix_views,
    )


def validation_batches(stage: Stage, data: DataSource) -> list[Batch]:
    """The same held-out batches every time; empty when the stage does not validate or nothing is held out.

    `stage.validation_batches` of them, one source after the other in turn, and at least one of each.
    """
    if not stage.validate_every:
        return []
    mixture = _with_held_out(stage.mixture, data.datasets)
    if not mixture.sources:
        log.warning("Stage %r wants validation, but no episode is held out; it is skipped.", stage.name)
        return []
    loaders = [
        Loader(
            dataclasses.replace(mixture, sources=(source,)),
            data.processor,
            batch_size=stage.batch_size,
            seed=seed_for(stage.seed, "validation", stage.name),
            datasets=data.datasets,
            workers=0,
            split="validation",
            bad_samples=data.bad_samples,
            quarantine=data.quarantine,
        )
        for source in mixture.sources
    ]
    turns = max(stage.validation_batches, len(loaders))
    places = [stage.mixture.sources.index(source) for source in mixture.sources]
    batches = [(places[turn % len(loaders)], next(loaders[turn % len(loaders)])) for turn in range(turns)]
    return [dataclasses.replace(b, source=torch.full_like(b.source, place)) for place, b in batches]


def _with_held_out(mixture: Mixture, datasets: Mapping[str, Any]) -> Mixture:
    kept = [s for s in mixture.sources if held_out(datasets[s.name].num_episodes, mixture.validation).any()]
    return dataclasses.replace(mixture, sources=tuple(kept))

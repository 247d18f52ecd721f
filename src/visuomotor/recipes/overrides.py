"""Setting fields of a frozen Run by dotted names: `override(run, {"stages.train.steps": "500"})`."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from visuomotor.codec import update
from visuomotor.contract import Run
from visuomotor.data.processor import PROCESSOR_FILE, Processor, ProcessorConfig
from visuomotor.models.fit import processor_config

__all__ = ["override"]


def override(run: Run, values: Mapping[str, str]) -> Run:
    """`run` with some fields replaced; texts are parsed by the fields' types.

    Names go through dataclass fields, dictionary keys, and members of tuples by their `name` or index:
    `stages.train.trains.vision 1e-4`, `stages.train.mixture.sources.scenes.weight 2`, `config.llm.layers 8`.

    Raises:
        ValueError: an unknown name (with the nearest), or a text that is not of the field's type.
    """
    # The processor of a start is read only where it matters: a study names a start before it is trained.
    if any("processor" in name.split(".") for name in values):
        whole = _with_whole_processor(run)
        changed = _with_processor_fields(update(whole, values, text=True), whole, run)
    else:
        changed = update(run, values, text=True)
    return replace(changed, overrides={**run.overrides, **values})


def _with_whole_processor(run: Run) -> Run:
    """The run with a ProcessorConfig in the place of the fields that it sets, so that each has its name and type."""
    folder = Path(run.processor_from.checkpoint or "")
    # A missing checkpoint is reported where the run starts; until then the default stands in for its fields.
    base = Processor.load(folder).config if (folder / PROCESSOR_FILE).exists() else None
    whole: Any = processor_config(run, base)
    return replace(run, processor=whole, before=run.before and _with_whole_processor(run.before))


def _with_processor_fields(changed: Run, whole: Any, run: Any) -> Run:
    """The inverse: the fields that `run` sets, and those in which `changed` differs from `whole`."""
    old, new = whole.processor, changed.processor
    names = [f.name for f in fields(ProcessorConfig)]
    own = {n: getattr(new, n) for n in names if n in run.processor or getattr(new, n) != getattr(old, n)}
    before = changed.before and _with_processor_fields(changed.before, whole.before, run.before)
    made = replace(changed, processor=own, before=before)
    processor_config(made, old)  # refuses what the model decides
    return made

"""Setting fields of a frozen Run by dotted names: `override(run, {"stages.train.steps": "500"})`."""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from visuomotor.codec import update
from visuomotor.contract import Run
from visuomotor.data.processor import PROCESSOR_FILE, Processor, ProcessorConfig

__all__ = ["override"]


def override(run: Run, values: Mapping[str, str]) -> Run:
    """`run` with some fields replaced; texts are parsed by the fields' types.

    Names go through dataclass fields, dictionary keys, and members of tuples by their `name` or index:
    `stages.train.trains.vision 1e-4`, `stages.train.mixture.sources.scenes.weight 2`, `processor.horizon 8`.

    Raises:
        ValueError: an unknown name (with the nearest), or a text that is not of the field's type.
    """
    if not any("processor" in name.split(".")[:2] for name in values):
        changed = update(run, values, text=True)
    else:
        whole = _with_whole_processor(run)
        changed = _with_processor_fields(update(whole, values, text=True), whole, run)
    return replace(changed, overrides={**run.overrides, **values})


def _with_whole_processor(run: Run) -> Run:
    """The run with a ProcessorConfig in the place of the fields that it sets, so that each has its name and type."""
    folder = Path(run.processor_from.checkpoint or "")
    # A missing checkpoint is reported where the run starts; until then the default stands in for its fields.
    plain = Processor.load(folder).config if (folder / PROCESSOR_FILE).exists() else ProcessorConfig()
    whole: Any = replace(plain, **run.processor)
    return replace(run, processor=whole, before=run.before and _with_whole_processor(run.before))


def _with_processor_fields(changed: Run, whole: Run, run: Run) -> Run:
    """The inverse: the fields that `run` sets, and those in which `changed` differs from `whole`."""
    old, new = whole.processor, changed.processor
    names = [f.name for f in fields(ProcessorConfig)]
    own = {n: getattr(new, n) for n in names if n in run.processor or getattr(new, n) != getattr(old, n)}
    before = changed.before
    if before is not None and whole.before is not None and run.before is not None:
        before = _with_processor_fields(before, whole.before, run.before)
    return replace(changed, processor=own, before=before)

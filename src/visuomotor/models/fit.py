"""Shapes and token ids that model and processor share: each is decided in one place and handed to the other.

A model's configuration decides shapes: the processor takes horizon, widths and image side from it (`processor_config`).
The processor decides words and robots: the model takes token ids and layers for each robot from it (`fitted`).
"""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from torch import Tensor, nn

from visuomotor.codec import names_of, update
from visuomotor.contract import Run
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.processor import Processor
from visuomotor.models import spec_of
from visuomotor.text import chat

__all__ = ["fitted", "processor_config", "require_fit", "shapes_of", "take_types"]

# Fields of ProcessorConfig, and the attributes of a model's configuration that decide them, where it has them.
_DECIDED = {"horizon": "horizon", "action_width": "action_dim", "state_width": "state_dim"}


def shapes_of(config: Any, image_size: int | None) -> dict[str, Any]:
    """The fields of ProcessorConfig that a model's configuration decides.

    `image_size`: the processor's; None, images stay as they are stored, is no decision of the model.
    """
    names = _DECIDED if image_size is None else {**_DECIDED, "image_size": "image_size"}
    shapes = {field: getattr(config, name) for field, name in names.items() if hasattr(config, name)}
    spec = spec_of(config)
    return shapes if spec is None or spec.layout is None else {**shapes, "prompt": spec.layout}


def processor_config(run: Run, base: ProcessorConfig | None = None) -> ProcessorConfig:
    """`base`, or the default, with the fields that the run sets and the shapes of its model.

    Raises:
        ValueError: the run sets a field that its model decides, or one that does not exist.
    """
    base = base or ProcessorConfig(image_size=getattr(run.config, "image_size", None))
    shapes = shapes_of(run.config, run.processor.get("image_size", base.image_size))
    for name in (name for name in run.processor if name in shapes):
        raise ValueError(
            f"processor.{name} is decided by the model, whose {_DECIDED.get(name, name)} is {shapes[name]!r}; leave it "
            f"out, and set the model's field."
        )
    return update(base, {**run.processor, **shapes})


def fitted(config: Any, processor: Processor) -> Any:
    """A model's configuration with what the processor decides."""
    return update(config, _decisions(config, processor))


def _decisions(config: Any, processor: Processor) -> dict[str, Any]:
    """The fields of a model's configuration that the processor decides, as far as the model has them."""
    words, robots = processor.tokenizer, processor.embodiments
    size = max(words.vocab_size, getattr(config, "vocab_size", 0))
    fields = {
        "newline_id": words.newline_id,
        "pad_id": words.pad_id,
        "action_start_id": words.action_start,
        "action_token_count": words.action_count,
        "vocab_size": size,
        "llm.vocab_size": size,
        **chat.token_ids(words),
    }
    if processor.config.image_size is not None:
        fields["image_pad"] = "grey"  # as data/images.py pads
    if getattr(config, "head_per_embodiment", False):
        fields["head.embodiments"] = tuple(robot.name for robot in robots)
        fields["head.action_dims"] = tuple(robot.action_dim for robot in robots)
        fields["head.state_dims"] = tuple(robot.state_dim for robot in robots)
    if processor.sentences is not None:
        fields["sentence_dim"] = processor.sentences.width
    known = names_of(config)
    return {name: value for name, value in fields.items() if name in known}


def require_fit(model: Any, processor: Processor) -> None:
    """ValueError where model and processor were not made for each other: a checkpoint assembled by hand."""
    config = model.config
    shapes = shapes_of(config, processor.config.image_size)
    pairs = [(name, own, getattr(processor.config, name)) for name, own in shapes.items()]
    pairs += [(name, attrgetter(name)(config), given) for name, given in _decisions(config, processor).items()]
    wrong = [f"{name} is {own!r}, not {given!r}" for name, own, given in pairs if own != given]
    if wrong:
        raise ValueError(
            f"The model was not made for this processor: {'; '.join(wrong)}. Take both from one checkpoint, or build "
            f"the model with the processor's values."
        )


def take_types(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the parameters the types that a file's tensors have."""
    for name, parameter in model.named_parameters():
        if name in tensors:
            parameter.data = parameter.data.to(tensors[name].dtype)

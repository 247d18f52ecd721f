"""Whether a model fits the processor that feeds it, and the file that fills it."""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from visuomotor.data import chat
from visuomotor.data.processor import Processor

__all__ = ["require_fit", "take_types"]


def require_fit(model: Any, processor: Processor) -> None:
    """ValueError where the model's sizes and ids contradict the processor's."""
    wanted: dict[str, int | str | None] = {
        "horizon": processor.config.horizon,
        "action_dim": processor.config.action_width,
        "state_dim": processor.config.state_width,
        "pad_id": processor.tokenizer.pad_id,
        "newline_id": processor.tokenizer.newline_id,
        "action_start_id": processor.tokenizer.action_start,
        "action_token_count": processor.tokenizer.action_count,
        **chat.token_ids(processor.tokenizer),
    }
    if processor.config.image_size is not None:  # otherwise images would be resized twice
        wanted["image_size"] = processor.config.image_size
        wanted["image_pad"] = "grey"
    prompt = getattr(model.config, "prompt", processor.config.prompt)
    if prompt != processor.config.prompt:
        raise ValueError(
            f"The model reads texts of the layout {prompt!r} but the processor makes {processor.config.prompt!r}; set "
            f"the processor's prompt to {prompt!r}, or start from a checkpoint of this kind of model."
        )
    for name, value in wanted.items():
        given = getattr(model.config, name, value)
        if given != value:
            raise ValueError(
                f"The model has {name} {given} but the processor {value}; build the model's configuration with "
                f"{name}={value}."
            )
    vocabulary = getattr(model.config, "vocab_size", processor.tokenizer.vocab_size)
    if vocabulary < processor.tokenizer.vocab_size:
        raise ValueError(
            f"The tokenizer has {processor.tokenizer.vocab_size} tokens but the model's vocab_size is {vocabulary}; "
            f"raise it."
        )


def take_types(model: nn.Module, path: Path) -> None:
    """Give the parameters the types that the file's tensors have."""
    with safe_open(str(path), framework="pt") as file:
        saved = set(file.keys())
        for name, parameter in model.named_parameters():
            if name in saved:
                parameter.data = parameter.data.to(file.get_tensor(name).dtype)

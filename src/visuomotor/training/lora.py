"""Low-rank adapters (LoRA, Hu et al. 2021) through peft, for as long as a stage trains with them.

A stage adds them, and at its end they are merged into the weights. A checkpoint written meanwhile holds merged weights,
so no policy needs peft; the training state beside it holds the adapters, so that resume is exact.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from visuomotor.contract import Stage
from visuomotor.models import spec_of
from visuomotor.models.base import Model
from visuomotor.models.spec import LORA_TARGETS
from visuomotor.training.step import seed_for

__all__ = ["adapter_parameters", "add_adapters", "merge_adapters", "merged"]


def add_adapters(model: Model, stage: Stage) -> None:
    """Put an adapter of rank `stage.lora` beside every matrix of attention and MLP in the parts `stage.lora_parts`.

    Its output is B A x, times `stage.lora_alpha` / rank; B starts at zero, so that no output changes. A depends on the
    stage's seed alone.

    Raises:
        ValueError: a part has no such matrices.
    """
    from peft import LoraConfig, inject_adapter_in_model

    spec = spec_of(model.config)
    targets = LORA_TARGETS if spec is None else spec.lora_targets
    parts, names = model.parts(), []
    for part in stage.lora_parts:
        own = {id(parameter) for parameter in parts.get(part, ())}
        linears = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and id(m.weight) in own]
        found = [name for name, _ in linears if name.rpartition(".")[2] in targets]
        if not found:
            raise ValueError(
                f"Stage {stage.name!r} adapts {part!r}, which has no matrices that take adapters; of {sorted(parts)}, "
                f"name language models and action experts."
            )
        names += found
    alpha = stage.lora if stage.lora_alpha is None else stage.lora_alpha
    matrices = "|".join(map(re.escape, names))
    config = LoraConfig(r=stage.lora, lora_alpha=alpha, lora_dropout=stage.lora_dropout, target_modules=matrices)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(stage.seed, "adapters", stage.name))
        inject_adapter_in_model(config, model)


def adapter_parameters(model: nn.Module) -> set[int]:
    """ids of the adapters' parameters."""
    layers = [layer for _, _, layer in _adapted(model)]
    return {id(p) for layer in layers for p in (*layer.lora_A.parameters(), *layer.lora_B.parameters())}


@contextmanager
def merged(model: nn.Module) -> Iterator[None]:
    """Inside, the model has no adapters and their products in its weights; behind it, every bit is as before."""
    kept = []
    try:
        for parent, name, layer in _adapted(model):
            kept.append((parent, name, layer, layer.base_layer.weight.detach().to("cpu", copy=True)))
            _merge(parent, name, layer)
        yield
    finally:
        for parent, name, layer, weight in kept:
            layer.base_layer.weight.data.copy_(weight)
            setattr(parent, name, layer)


def merge_adapters(model: nn.Module) -> None:
    """Add the adapters' products to the weights and drop them; nothing happens where there are none."""
    for parent, name, layer in _adapted(model):
        _merge(parent, name, layer)
    if hasattr(model, "peft_config"):
        del model.peft_config


def _merge(parent: nn.Module, name: str, layer: Any) -> None:
    with torch.no_grad():
        layer.base_layer.weight += layer.get_delta_weight("default")
    setattr(parent, name, layer.base_layer)


def _adapted(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    """(parent, name, peft's layer), without importing peft where nobody uses it."""
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if hasattr(child, "lora_A")
    ]

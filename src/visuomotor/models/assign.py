"""Published tensors: what shapes tell, which fit a module, and into one that was built on the meta device."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from visuomotor.models.names import NameTable
from visuomotor.models.report import TensorReport

__all__ = [
    "Precision",
    "assign",
    "cast",
    "compare",
    "count_numbered",
    "decoder_fields",
    "fill",
    "require_equal",
    "told_shape",
]

Precision = Literal["float32", "reference", "file"]
SAME = NameTable({})


def cast(tensors: Mapping[str, Tensor], precision: Precision, wide: re.Pattern[str]) -> dict[str, Tensor]:
    """Tensors in the types that they have in the file, in float32, or as the published code runs in bfloat16.

    wide   names that stay in float32 there
    """
    if precision not in get_args(Precision):
        raise ValueError(f"precision is {precision!r}, but must be one of {list(get_args(Precision))}.")
    if precision == "file":
        return dict(tensors)
    narrow = torch.float32 if precision == "float32" else torch.bfloat16
    return {name: t.to(torch.float32 if wide.search(name) else narrow) for name, t in tensors.items()}


def require_equal(values: Mapping[str, tuple[Any, Any]], what: str) -> None:
    """ValueError with the names of `values` (value, expected) that differ, in a sentence that begins with `what`."""
    wrong = [
        f"{name} is {value!r}, not {expected!r}" for name, (value, expected) in values.items() if value != expected
    ]
    if wrong:
        raise ValueError(f"{what}: {'; '.join(wrong)}.")


def told_shape(shapes: Mapping[str, Sequence[int]], name: str, what: str) -> tuple[int, ...]:
    """The shape of a tensor that tells a dimension of `what`; ValueError where it is missing."""
    if name not in shapes:
        raise ValueError(f"Not a published {what}: {name} is missing among {len(shapes)} tensors.")
    return tuple(shapes[name])


def count_numbered(names: Iterable[str], stem: str) -> int:
    """How many numbered modules there are behind `stem`."""
    found = [int(match[1]) for name in names if (match := re.match(re.escape(stem) + r"(\d+)\.", name))]
    return max(found, default=-1) + 1


def decoder_fields(shapes: Mapping[str, Sequence[int]], stem: str, head_dim: int, what: str) -> dict[str, int]:
    """Fields of a nested `llm` (DecoderConfig) that the tensors below `stem` tell; ValueError where one is missing."""

    def rows(name: str) -> int:
        return told_shape(shapes, f"{stem}layers.0.{name}.weight", what)[0]

    return {
        "llm.width": told_shape(shapes, f"{stem}layers.0.mlp.gate_proj.weight", what)[1],
        "llm.mlp_width": rows("mlp.gate_proj"),
        "llm.layers": count_numbered(shapes, f"{stem}layers."),
        "llm.heads": rows("self_attn.q_proj") // head_dim,
        "llm.kv_heads": rows("self_attn.k_proj") // head_dim,
        "llm.head_dim": head_dim,
    }


def compare(
    module: nn.Module, tensors: Mapping[str, Tensor], ignored: Sequence[str] = (), names: NameTable = SAME
) -> TensorReport:
    """What `tensors` would fill; nothing is done. `ignored`: names left out on purpose, for the report."""
    own = names.state(module)
    both = [name for name in tensors if name in own]
    fitting = [name for name in both if tensors[name].shape == own[name].shape]
    return TensorReport(
        loaded=tuple(fitting),
        missing=tuple(sorted(own.keys() - tensors.keys())),
        unexpected=tuple(sorted(tensors.keys() - own.keys())),
        ignored=tuple(ignored),
        mismatched=tuple((n, tuple(tensors[n].shape), tuple(own[n].shape)) for n in both if n not in fitting),
    )


def assign(
    module: nn.Module, tensors: Mapping[str, Tensor], *, ignored: Sequence[str] = (), names: NameTable = SAME
) -> TensorReport:
    """Share `tensors` with `module`, without a copy; where names or shapes disagree, the report says so.

    names: from the tensors' names to the module's; the report has the tensors'. What nothing filled stays on the meta
    device.
    """
    report = compare(module, tensors, ignored, names)
    module.load_state_dict({names.own(name): tensors[name] for name in report.loaded}, strict=False, assign=True)
    return report


@torch.no_grad()
def fill(own: Mapping[str, Tensor], found: Iterable[tuple[str, Tensor]], ignored: Sequence[str] = ()) -> TensorReport:
    """Copy `found` into a model's `own` tensors of the same names, one after the other.

    `ignored` is read when `found` is exhausted, which may add to it.
    """
    loaded, unexpected, mismatched = [], [], []
    for name, tensor in found:
        if name not in own:
            unexpected.append(name)
        elif tensor.shape != own[name].shape:
            mismatched.append((name, tuple(tensor.shape), tuple(own[name].shape)))
        else:
            own[name].copy_(tensor)
            loaded.append(name)
    settled = {*loaded, *(name for name, _, _ in mismatched)}
    return TensorReport(
        loaded=tuple(loaded),
        missing=tuple(name for name in own if name not in settled),
        unexpected=tuple(unexpected),
        ignored=tuple(ignored),
        mismatched=tuple(mismatched),
    )

"""Tensors into a module that was built on the meta device."""

from collections.abc import Mapping

from torch import Tensor, nn

from visuomotor.models.report import TensorReport

__all__ = ["assign"]


def assign(module: nn.Module, tensors: Mapping[str, Tensor], *, ignored: tuple[str, ...] = ()) -> TensorReport:
    """Share `tensors` with `module`, without a copy; where names or shapes disagree, the report says so.

    `ignored`: names of the file that were left out on purpose, for the report. What nothing filled stays on the meta
    device.
    """
    own = module.state_dict()
    both = [name for name in tensors if name in own]
    fitting = {name: tensors[name] for name in both if tensors[name].shape == own[name].shape}
    module.load_state_dict(fitting, strict=False, assign=True)
    return TensorReport(
        loaded=tuple(fitting),
        missing=tuple(sorted(own.keys() - tensors.keys())),
        unexpected=tuple(sorted(tensors.keys() - own.keys())),
        ignored=ignored,
        mismatched=tuple((n, tuple(tensors[n].shape), tuple(own[n].shape)) for n in both if n not in fitting),
    )

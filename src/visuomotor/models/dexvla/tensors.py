"""Tensors into a diffusion head: which fit, and what becomes of every one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from visuomotor.models.report import TensorReport

__all__ = ["compare", "copy_into"]


def compare(head: nn.Module, tensors: Mapping[str, Tensor], ignored: Sequence[str] = ()) -> TensorReport:
    """What `tensors` would fill; nothing is copied. `ignored` is passed on."""
    ours = head.state_dict()
    both = [name for name in tensors if name in ours]
    return TensorReport(
        loaded=tuple(name for name in both if tensors[name].shape == ours[name].shape),
        missing=tuple(name for name in ours if name not in tensors),
        unexpected=tuple(name for name in tensors if name not in ours),
        ignored=tuple(ignored),
        mismatched=tuple(
            (name, tuple(tensors[name].shape), tuple(ours[name].shape))
            for name in both
            if tensors[name].shape != ours[name].shape
        ),
    )


@torch.no_grad()
def copy_into(head: nn.Module, tensors: Mapping[str, Tensor], ignored: Sequence[str] = ()) -> TensorReport:
    """Copy what has a place into `head`, in its own dtype; what nothing filled stays as it is.

    Raises:
        ValueError: a tensor has another shape than its place, or none has a place; nothing was copied.
    """
    report = compare(head, tensors, ignored)
    if report.mismatched or not report.loaded:
        raise ValueError(f"These weights do not fit this head: {replace(report, loaded=()).summary()}.")
    ours = head.state_dict()
    for name in report.loaded:
        ours[name].copy_(tensors[name])
    return report

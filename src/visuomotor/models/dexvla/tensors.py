"""Tensors into a diffusion head: which fit, and what becomes of every one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from visuomotor.models.assign import compare
from visuomotor.models.report import TensorReport

__all__ = ["copy_into"]


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

"""Published names of DexVLA's tensors and those of Stage 1; and tensors into a diffusion head."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from visuomotor.models.assign import compare
from visuomotor.models.names import NameTable
from visuomotor.models.report import TensorReport

__all__ = ["NAMES", "STAGE1_NAMES", "copy_into"]

NAMES = NameTable(
    {
        "backbone.vision.": "visual.",
        "backbone.llm.": "model.",
        "head.prompt_projector.": "input_action_proj.",
        "head.answer_projector.": "reasoning_action_proj.",
        "head.film.": "reasoning_film.",
        "head.denoiser.": "policy_head.",
    }
)
STAGE1_NAMES = NameTable(
    {
        "backbone.encoders.": "obs_encoder.",
        "backbone.projector.": "obs_projector.",
        "head.denoiser.": "noise_pred_net.",
    }
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

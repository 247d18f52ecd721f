"""From Stage 1 to Stage 2: the trunk of a ScaleDP that was trained on its own, into the head of a DexVLA."""

from collections.abc import Mapping

from torch import Tensor

from visuomotor.models.dexvla.scaledp import ScaleDP
from visuomotor.models.dexvla.tensors import copy_into
from visuomotor.models.report import TensorReport

__all__ = ["transplant_stage1"]


def transplant_stage1(state: Mapping[str, Tensor], head: ScaleDP) -> TensorReport:
    """Copy a Stage-1 policy, a published file's ["nets"]["nets"], into `head`, and say what became of every tensor.

    Left out on purpose (`ignored`): vision and language encoders, and `cond_obs_emb`, which reads another condition.
    The released trunk has neither layers of a robot nor `cond_obs_emb`: they are `missing`, and stay as they were.

    Raises:
        ValueError: a tensor has another shape than its place (a chunk of another length, say), or none has a place.
    """
    tensors, ignored = {}, []
    for name, tensor in state.items():
        inner = name.removeprefix("policy.")
        if "noise_pred" in inner and "cond_obs_emb" not in inner:
            tensors[inner.removeprefix("noise_pred_net.")] = tensor
        else:
            ignored.append(name)
    return copy_into(head, tensors, ignored)

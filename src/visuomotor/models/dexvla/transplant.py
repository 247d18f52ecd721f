"""From Stage 1 to Stage 2: the trunk of a ScaleDP that was trained on its own, into the head of a DexVLA."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from visuomotor.heads.robots import STEM
from visuomotor.heads.scaledp import ScaleDP
from visuomotor.models import read_checkpoint
from visuomotor.models.dexvla.tensors import STAGE1_NAMES, copy_into
from visuomotor.models.report import TensorReport

__all__ = ["read_stage1", "transplant_stage1"]


def read_stage1(source: Path | str) -> dict[str, Tensor]:
    """The tensors of a Stage-1 policy, a published file's ["nets"]["nets"] or a checkpoint folder of dexvla-expert.

    Both have the published names.
    A published file is read with `weights_only`, so that it cannot run code.

    Raises:
        FileNotFoundError: nothing of that name. ValueError: not a Stage-1 file, or damaged.
    """
    path = Path(source)
    if path.is_dir():
        return {STAGE1_NAMES.published(name): tensor for name, tensor in read_checkpoint(path).items()}
    if not path.exists():
        raise FileNotFoundError(f"There is no Stage-1 file or checkpoint folder {path}; give the path of one.")
    try:
        file = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file of anything may raise anything
        why = str(error).partition("\n")[0]
        raise ValueError(f"{path} cannot be read as weights alone ({why}); copy it again.") from error
    nets = file.get("nets") if isinstance(file, Mapping) else None
    tensors = nets.get("nets") if isinstance(nets, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        found = sorted(map(str, file)) if isinstance(file, Mapping) else type(file).__name__
        raise ValueError(f'{path} has no tensors in ["nets"]["nets"], where a Stage-1 file keeps them, but {found}.')
    return dict(tensors)


def transplant_stage1(state: Mapping[str, Tensor], head: ScaleDP) -> TensorReport:
    """Copy a Stage-1 policy (see `read_stage1`) into `head`, and say what became of every tensor.

    Left out on purpose (`ignored`): vision and language encoders, `cond_obs_emb`, which reads another condition, and
    the layers of robots that the head does not know; a robot that both know keeps its own.
    The released trunk has neither layers of a robot nor `cond_obs_emb`: they are `missing`, and stay as they were.

    Raises:
        ValueError: a tensor has another shape than its place (a chunk of another length, say), or none has a place.
    """
    tensors, ignored = {}, []
    for name, tensor in state.items():
        inner = name.removeprefix("policy.")
        place = inner.removeprefix("noise_pred_net.") if "noise_pred" in inner and "cond_obs_emb" not in inner else None
        place = place and _own_place(place, head)
        if place is None:
            ignored.append(name)
        else:
            tensors[place] = tensor
    return copy_into(head, tensors, ignored)


def _own_place(name: str, head: ScaleDP) -> str | None:
    """Where a tensor belongs: a robot's layer under its plain name in a head for one, nowhere in a head for others."""
    if not name.startswith(STEM):
        return name
    robot, inner = name.removeprefix(STEM).split(".", 1)
    if robot not in head.config.embodiments:
        return None
    return inner if len(head.config.robots) == 1 else name

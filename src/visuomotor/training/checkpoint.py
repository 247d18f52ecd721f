"""Checkpoints and training state on disk: atomic, never a pickle.

    out/checkpoints/step-000500/   a policy folder (what load_policy reads)
    out/state/step-000500/         tensors.safetensors, state.json: what exact resume needs beside it
    out/last                       text: the name of the newest step whose two folders are complete

A folder is written under a temporary name, flushed and renamed; `last` is replaced after both are there. So a kill
at any moment leaves either the old or the new checkpoint.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from visuomotor.models.report import TensorReport

__all__ = [
    "checkpoint_folder", "is_finished", "last_checkpoint", "last_step", "load_facts", "load_state", "prune",
    "save_state", "set_last", "state_folder", "step_name", "transplant", "write_folder",
]  # fmt: skip

TEMPORARY = ".tmp-"


def step_name(step: int) -> str:
    return f"step-{step:06d}"


def checkpoint_folder(out: Path, name: str) -> Path:
    return out / "checkpoints" / name


def state_folder(out: Path, name: str) -> Path:
    return out / "state" / name


def last_checkpoint(out: Path) -> Path:
    """The newest complete checkpoint's folder; FileNotFoundError where there is none."""
    name = last_step(out)
    if name is None:
        raise FileNotFoundError(f"{out} holds no checkpoint yet; train, or go on with --resume.")
    return checkpoint_folder(out, name)


def is_finished(out: Path, stages: int) -> bool:
    """Whether a run of so many stages has ended all of them."""
    name = last_step(out)
    return name is not None and load_facts(state_folder(out, name))["position"]["stage"] >= stages


def write_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary folder)`, flush, rename to `folder`.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    temporary = folder.with_name(TEMPORARY + folder.name)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        _flush(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise OSError(
            f"Could not write {folder}: {getattr(cause, 'strerror', None) or cause} ({_free(folder)}). Earlier "
            f"checkpoints are intact; free space or fix the permissions, then go on with --resume."
        ) from error


def last_step(out: Path) -> str | None:
    """Name of the newest complete checkpoint, e.g. "step-000500", or None."""
    path = out / "last"
    if not path.exists():
        return None
    name = path.read_text().strip()
    for folder in (checkpoint_folder(out, name), state_folder(out, name)):
        if not folder.is_dir():
            raise FileNotFoundError(
                f"{path} names {name!r} but {folder} is missing; restore it, write the name of another complete "
                f"step into {path}, or start over with --overwrite."
            )
    return name


def set_last(out: Path, name: str) -> None:
    temporary = out / f"{TEMPORARY}last"
    try:
        temporary.write_text(name + "\n")
        os.replace(temporary, out / "last")
    except OSError as error:
        raise OSError(f"Could not write {out / 'last'}: {error.strerror or error} ({_free(out)}).") from error


def prune(out: Path, keep: int, protected: Iterable[str]) -> None:
    """Delete all but the newest `keep` checkpoints and the newest state; `protected` checkpoints stay.

    What is newer than `last`, and what a kill left half-written, goes too.
    """
    last = out / "last"
    newest = _number(last.read_text().strip()) if last.exists() else -1
    stay = set(protected)
    for kind, count in (("checkpoints", max(1, keep)), ("state", 1)):
        folder = out / kind
        for leftover in (*folder.glob(f"{TEMPORARY}*"), *folder.glob(".*.tmp")):
            shutil.rmtree(leftover, ignore_errors=True)
        names = sorted((p.name for p in folder.glob("step-*")), key=_number)
        kept = [n for n in names if _number(n) <= newest][-count:]
        for name in names:
            if name not in kept and not (kind == "checkpoints" and name in stay):
                shutil.rmtree(folder / name, ignore_errors=True)


def save_state(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    shadow: Mapping[str, Tensor],
    facts: dict[str, Any],
) -> None:
    """Weights, optimiser and moving average as tensors.safetensors, the rest as state.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": t for name, t in own_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensors[f"optimiser.{key}.{name}"] = value
    tensors |= {f"average.{name}": t for name, t in shadow.items()}
    save_file({n: t.detach().contiguous().cpu() for n, t in tensors.items()}, folder / "tensors.safetensors")
    (folder / "state.json").write_text(json.dumps(facts, indent=2) + "\n")


def load_state(
    folder: Path, model: nn.Module, optimiser: torch.optim.Optimizer | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Put saved weights (and optimiser moments, if given) back; returns the facts and the averaged weights."""
    facts = load_facts(folder)
    try:
        tensors = load_file(folder / "tensors.safetensors")
    except (OSError, SafetensorError) as error:
        raise _unreadable(folder, error) from error
    own = own_tensors(model)
    saved = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    if own.keys() != saved.keys() or any(own[n].shape != saved[n].shape for n in own):
        raise ValueError(f"The training state in {folder} is of another model than this run builds; use --overwrite.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])
    if optimiser is not None:
        _restore_optimiser(model, optimiser, tensors)
    return facts, {n.removeprefix("average."): t for n, t in tensors.items() if n.startswith("average.")}


def load_facts(folder: Path) -> dict[str, Any]:
    """The facts of a training state."""
    try:
        return json.loads((folder / "state.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> ValueError:
    return ValueError(
        f"The training state in {folder} cannot be read: {error}. Start over with --overwrite, or start a new run "
        f"from its checkpoint with --from."
    )


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """State of the model, tied tensors once, under their first name."""
    found: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found


def _restore_optimiser(model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        state = {}
        for key in ("step", "exp_avg", "exp_avg_sq", "momentum"):
            saved = tensors.get(f"optimiser.{key}.{name}")
            if saved is not None:
                state[key] = saved.to(parameter.device)
        if state:
            optimiser.state[parameter] = state


@torch.no_grad()
def transplant(model: nn.Module, state: Mapping[str, Tensor]) -> TensorReport:
    """Copy every tensor that fits by name and shape into the model; nothing is guessed, everything is reported.

    A tied tensor counts as loaded when one of its names was.
    """
    own = dict(model.state_dict(keep_vars=True))
    loaded, mismatched, filled = [], [], set()
    for name, tensor in own.items():
        if name not in state:
            continue
        if state[name].shape != tensor.shape:
            mismatched.append((name, tuple(state[name].shape), tuple(tensor.shape)))
            continue
        tensor.copy_(state[name])
        loaded.append(name)
        filled.add(id(tensor))
    tied = [n for n, t in own.items() if n not in state and id(t) in filled]
    missing = [n for n in own if n not in state and n not in tied]
    return TensorReport(
        loaded=(*loaded, *tied),
        missing=tuple(missing),
        unexpected=tuple(n for n in state if n not in own),
        mismatched=tuple(mismatched),
    )


def _number(name: str) -> int:
    return int(name.removeprefix("step-"))


def _flush(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _free(path: Path) -> str:
    for folder in (path, *path.parents):
        if folder.exists():
            return f"{shutil.disk_usage(folder).free / 1e6:.0f} MB free there"
    return "no such disk"

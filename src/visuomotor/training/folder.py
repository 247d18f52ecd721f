"""The output folder of a run: when it may be used, and whether it belongs to the run that resumes."""

import json
import shutil
from pathlib import Path
from typing import Any

from visuomotor.contract import Run
from visuomotor.training.provenance import run_to_json

__all__ = ["prepare_folder"]

OURS = ("checkpoints", "state", "last", "metrics.jsonl", "run.json", "quarantine.jsonl", "transplant.json")
FREE = ("log_every", "validate_every", "validation_batches", "checkpoint_every", "keep")  # do not change the weights


def prepare_folder(run: Run, out: Path, *, resume: bool, overwrite: bool) -> None:
    """Create `out` with run.json, or check that it holds the same run.

    Raises:
        FileExistsError: it holds a run and neither `resume` nor `overwrite` is set.
        ValueError: `resume`, but its run differs in something that changes the weights.
    """
    if resume and overwrite:
        raise ValueError("resume and overwrite contradict each other; choose one.")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; give a folder for checkpoints and metrics.")
    present = [name for name in OURS if (out / name).exists()]
    if present not in ([], ["run.json"]) and not (resume or overwrite):  # run.json alone: it failed before its start
        raise FileExistsError(
            f"{out} already holds a training run ({', '.join(present)}). Go on with --resume, replace it with "
            f"--overwrite, or choose another folder with --out."
        )
    facts = run_to_json(run)
    path = out / "run.json"
    if resume and path.exists():
        _require_same(json.loads(path.read_text()), facts, path)
    elif present and overwrite:
        for name in present:
            target = out / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise OSError(f"Could not write {path}: {error.strerror or error}. Choose a writable folder.") from error


def _require_same(saved: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    before, after = _flat(saved), _flat(now)
    changed = [
        f"{name} was {before.get(name)!r} and is {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
        and not {"evaluation", "overrides"} & set(name.split("."))
        and name.rpartition(".")[2] not in FREE
    ]
    if changed:
        raise ValueError(
            f"The run in {path} differs from this one: {'; '.join(changed[:5])}. Resume with the same settings, or "
            f"start a new run (its stage may start from this checkpoint)."
        )


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}.{name}").items()}
    if isinstance(value, list) and value:
        return {k: v for i, inner in enumerate(value) for k, v in _flat(inner, f"{prefix}.{i}").items()}
    return {prefix.removeprefix("."): value}

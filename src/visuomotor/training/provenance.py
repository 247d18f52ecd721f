"""Where a checkpoint comes from: code, packages, data, recipe, parent, seed, effort."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from visuomotor.codec import encode
from visuomotor.contract import Run
from visuomotor.models.report import TensorReport
from visuomotor.versions import commit, installed

__all__ = ["parent_of", "provenance", "public_weights", "run_to_json"]

PACKAGES = ("visuomotor", "torch", "numpy", "tokenizers", "safetensors", "av", "pyarrow", "mujoco")


def provenance(
    run: Run,
    *,
    data: Mapping[str, str],
    stage: str,
    step: int,
    samples: int,
    seconds: float,
    parents: Mapping[str, Any],
    weights: Mapping[str, Any],
    precision: str,
) -> dict[str, Any]:
    """JSON facts of one checkpoint. `data`: {source: hash}; `parents`: {stage: `parent_of` its start}.

    `weights`: `public_weights` that the run started from.
    """
    return {
        "code": {"commit": commit(), "packages": installed(PACKAGES), "python": platform.python_version()},
        "recipe": run.name,
        "overrides": dict(run.overrides),
        "data": dict(data),
        "parents": dict(parents),
        "weights": dict(weights),
        "stage": stage,
        "steps": step,
        "samples": samples,
        "wall_seconds": round(seconds, 1),
        "seed": {name: s.seed for name, s in run.stages.items()},
        "precision": precision,
        "run": run_to_json(run),
    }


def parent_of(folder: Path) -> dict[str, Any]:
    """The checkpoint that a stage started from: folder name, hash of the weights, and its own provenance, whole."""
    with (folder / "model.safetensors").open("rb") as weights:
        digest = hashlib.file_digest(weights, "sha256").hexdigest()[:16]
    path = folder / "provenance.json"
    origin = json.loads(path.read_text()) if path.exists() else {}
    return {"checkpoint": folder.name, "weights": digest, "provenance": origin}


def public_weights(sources: Mapping[str, str], report: TensorReport, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a run started from: names without paths, a hash of the tensors as they were loaded, what became of them.

    tensors   of the model, under the names that the report has
    """
    digest = hashlib.sha256()
    for name in report.loaded:
        digest.update(tensors[name].detach().cpu().contiguous().numpy().tobytes())
    names = {part: Path(source).name if Path(source).is_dir() else source for part, source in sources.items()}
    return {"sources": names, "loaded": digest.hexdigest()[:16], "report": report.summary()}


def run_to_json(run: Run) -> dict[str, Any]:
    """The run as plain JSON; the tokenizer's corpus only as a hash."""
    corpus = hashlib.sha256("\n".join(run.corpus).encode()).hexdigest()[:16]
    plain = {**encode(replace(run, corpus=())), "corpus": f"{len(run.corpus)} sentences, sha256 {corpus}"}
    before = plain.pop("before")
    return plain if before is None or run.before is None else {**plain, "before": run_to_json(run.before)}

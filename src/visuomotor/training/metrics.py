"""metrics.jsonl: what a run logged, one flat JSON object per line.

Training lines    step (over all stages), stage, stage_step, loss, loss/TERM, lr/PART, grad_norm, samples_per_second,
                  data_wait (share of the time), memory_mb (peak), seconds; source_loss/SOURCE/TERM with several sources
Validation lines  step, stage, validation/loss/TERM, validation/source_loss/SOURCE/TERM, validation/samples,
                  validation/seconds,
                  validation/action_error/{1, T/2, T, all} (mean absolute error at that step of the chunk, normalised
                  units), validation/robot_error/COMPONENT (over all steps, in the component's unit)
"""

import json
import os
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from visuomotor.training.step import StepResult

__all__ = ["Meter", "append", "flatten", "read_metrics", "truncate"]


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one line; OSError with a sentence when it cannot be written."""
    try:
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise OSError(
            f"Could not write {path}: {error.strerror or error}. Free space or fix the permissions, then go on with "
            f"--resume from the last checkpoint."
        ) from error


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a/b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}/") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    entries = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path} line {number} is not JSON: {error}. Repair or remove that line.") from error
    return entries


def truncate(path: Path, step: int) -> None:
    """Drop what was logged after `step`, so that a resumed run logs nothing twice."""
    if path.exists():
        kept = [json.dumps(e) + "\n" for e in read_metrics(path) if e["step"] <= step]
        fresh = path.with_suffix(".tmp")
        fresh.write_text("".join(kept))
        os.replace(fresh, path)


class Meter:
    """Adds up what happens between two log lines."""

    def __init__(self) -> None:
        self.reset(0.0)

    def reset(self, waited: float) -> None:
        self._started, self._waited = time.perf_counter(), waited
        self._sums: dict[str, list[float]] = {}
        self._norms = self._total = 0.0
        self._steps = self._samples = 0

    def add(self, result: StepResult, samples: int) -> None:
        for name, (total, count) in result.terms.items():
            entry = self._sums.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += count
        self._total += result.loss
        self._norms += result.grad_norm
        self._steps += 1
        self._samples += samples

    def entry(self, waited: float) -> dict[str, Any]:
        """The measured part of a training line; `waited` is the loader's running total of seconds."""
        seconds = max(1e-9, time.perf_counter() - self._started)
        return {
            "loss": self._total / self._steps,
            **{f"loss/{name}": total / (count or 1.0) for name, (total, count) in self._sums.items()},
            "grad_norm": self._norms / self._steps,
            "samples_per_second": round(self._samples / seconds, 2),
            "data_wait": round(min(1.0, (waited - self._waited) / seconds), 4),
            "memory_mb": round(peak_memory_mb(), 1),
        }


def peak_memory_mb() -> float:
    """Peak memory: of the GPU when one is used, else of the process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10

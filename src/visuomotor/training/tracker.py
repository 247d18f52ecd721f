"""Metrics to an experiment tracker beside metrics.jsonl: wandb, or trackio, which has the same interface."""

import logging
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from visuomotor.contract import Run
from visuomotor.training.provenance import run_to_json

__all__ = ["TRACKERS", "Tracker"]

log = logging.getLogger(__name__)
TRACKERS = ("wandb", "trackio")
PROJECT = "visuomotor"


class Tracker:
    """Sends numbers under the run's step. A tracker that fails is left out with a warning; metrics.jsonl has them all.

    A resumed run goes on under its name, which is that of its folder.

    Raises:
        ValueError: an unknown tracker, or one that is not installed.
    """

    def __init__(self, name: str) -> None:
        if name not in TRACKERS:
            raise ValueError(f"There is no tracker {name!r}; choose from {', '.join(TRACKERS)}.")
        try:
            self._module = import_module(name)
        except ImportError as error:
            raise ValueError(f"{name} is not installed; run: pip install 'visuomotor[{name}]'.") from error
        self.name = name
        self._run: Any = None

    def start(self, run: Run, out: Path) -> None:
        """Begin to send, or go on."""
        title = f"{run.name}-{out.resolve().name}"
        given: dict[str, Any] = {"project": PROJECT, "name": title, "config": run_to_json(run), "resume": "allow"}
        if self.name == "wandb":
            given |= {"id": title, "dir": str(out)}
        self._run = self._module.init(**given)

    def send(self, entry: Mapping[str, Any]) -> None:
        """The numbers of one line of metrics.jsonl."""
        numbers = {k: v for k, v in entry.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        self._try(lambda: self._run.log({k: v for k, v in numbers.items() if k != "step"}, step=numbers["step"]))

    def close(self) -> None:
        self._try(self._module.finish)

    def _try(self, call: Any) -> None:
        if self._run is None:
            return
        try:
            call()
        except Exception as error:  # networks fail in many ways, and none of them is worth a training
            log.warning("%s gets no more metrics, metrics.jsonl has them all: %s", self.name, error)
            self._run = None

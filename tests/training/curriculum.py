"""A run of one model that is trained before a run of another, which takes its trunk; and one that strikes itself."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file

from tests.training.fakes import FakeConfig, FakeModel, install, make_run, stage
from visuomotor import models
from visuomotor.contract import Run
from visuomotor.models.report import TensorReport
from visuomotor.training.progress import Progress
from visuomotor.training.trainer import train

MODULE = "tests_fake_heir"
NAMES = ("trunk.weight", "trunk.bias")


@dataclass(frozen=True, kw_only=True)
class HeirConfig(FakeConfig):
    pass


class Heir(FakeModel):
    """Another model, whose trunk is the earlier one's."""

    @torch.no_grad()
    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        found, own = load_file(Path(sources["trunk"]) / "model.safetensors"), self.state_dict()
        for name in NAMES:
            own[name].copy_(found[name])
        ignored = tuple(n for n in found if n not in NAMES)
        return TensorReport(loaded=NAMES, missing=tuple(n for n in own if n not in NAMES), ignored=ignored)


def install_both(patch: Any) -> None:
    install(patch)
    spec = ModelSpec(name="heir", config=HeirConfig, presets={"nano": HeirConfig()}, build=Heir)
    patch.setitem(sys.modules, MODULE, SimpleNamespace(SPEC=spec))
    patch.setitem(models.MODELS, "heir", MODULE)


def curriculum(**options: Any) -> Run:
    """Four steps of the first model, then three and two of the second."""
    before = replace(make_run(stage("expert", steps=4, ema=0.9, log_every=1)), name="expert", overrides={"steps": "4"})
    stages = (
        stage("align", steps=3, log_every=1, trains={"trunk": 0.0, "*": 1e-2}),
        stage("adapt", log_every=1, **{"steps": 2, **options}),
    )
    run = make_run(*stages)
    return replace(run, name="heir", model="heir", config=HeirConfig(), before=before, weights={"trunk": "before"})


def strike(out: Path, name: str, step: int, number: int) -> None:
    """In a process of its own: train, and send oneself the signal after a step of a stage."""

    def watch(state: Progress) -> None:
        if (state.stage, state.step) == (name, step):
            os.kill(os.getpid(), number)

    try:
        train(curriculum(), out, progress=watch, threads=1)
    except KeyboardInterrupt:
        os._exit(130)
    os._exit(0)


if __name__ == "__main__":  # FOLDER STAGE:STEP:SIGNAL ...: trains FOLDER/whole and each case; prints exit statuses
    import pytest

    install_both(pytest.MonkeyPatch())
    codes = {}
    train(curriculum(), Path(sys.argv[1]) / "whole", threads=1)
    for case in sys.argv[2:]:
        name, step, number = case.split(":")
        child = os.fork()
        if child == 0:
            strike(Path(sys.argv[1]) / case, name, int(step), getattr(signal, number))
        codes[case] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(codes))

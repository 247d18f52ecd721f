import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.curriculum import NAMES, curriculum, install_both
from tests.training.fakes import make_run
from visuomotor.recipes import override
from visuomotor.training.metrics import read_metrics
from visuomotor.training.provenance import run_to_json
from visuomotor.training.trainer import train

ROOT = Path(__file__).parents[2]
# Inside the first model's run, at its end (before the second has begun), inside the second's, between its stages.
KILLED = {"expert:3:SIGKILL": -9, "expert:4:SIGKILL": -9, "align:2:SIGKILL": -9, "align:3:SIGKILL": -9}
STOPPED = {"expert:2:SIGTERM": 130, "adapt:4:SIGINT": 130}
LAST = "checkpoints/step-000005"


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    install_both(monkeypatch)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an uninterrupted run and one per case, each ended by a signal in a process of its own."""
    folder, cases = tmp_path_factory.mktemp("struck"), {**KILLED, **STOPPED}
    command = [sys.executable, "-m", "tests.training.curriculum", str(folder), *cases]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == cases
    return folder


@pytest.mark.parametrize("case", [*KILLED, *STOPPED])
def test_killed_anywhere_and_resumed_equals_uninterrupted(struck: Path, case: str) -> None:
    assert_same(train(curriculum(), struck / case, resume=True, threads=1), struck / "whole" / LAST)
    for part in (".", "expert"):
        lines = [
            [(e["stage"], e["step"], e["loss"]) for e in read_metrics(folder / part / "metrics.jsonl") if "loss" in e]
            for folder in (struck / case, struck / "whole")
        ]
        assert lines[0] == lines[1]


def test_what_is_taken_from_the_run_before_is_reported(struck: Path) -> None:
    whole, earlier = struck / "whole", struck / "whole" / "expert" / "checkpoints" / "step-000004"
    aligned = weights(whole / "checkpoints" / "step-000003")
    assert all(torch.equal(weights(earlier)[name], aligned[name]) for name in NAMES)  # "align" leaves the trunk alone
    report = json.loads((whole / "transplant.json").read_text())["public weights"]
    assert report["loaded"] == list(NAMES)
    assert report["from"] == {"trunk": str(earlier)}
    facts = json.loads((whole / LAST / "provenance.json").read_text())
    assert facts["parents"]["before"]["checkpoint"] == "step-000004"
    assert facts["weights"]["sources"] == {"trunk": "step-000004"}
    assert facts["run"]["before"]["stages"]["expert"]["steps"] == 4


def test_a_time_limit_ends_between_models_too(tmp_path: Path, struck: Path) -> None:
    assert train(curriculum(), tmp_path, stop_after_seconds=0.0, threads=1).parents[1] == tmp_path / "expert"
    assert not (tmp_path / "last").exists()
    assert_same(train(curriculum(), tmp_path, resume=True, threads=1), struck / "whole" / LAST)


def test_resuming_with_another_run_before_is_refused_and_its_evaluation_is_free(tmp_path: Path) -> None:
    train(curriculum(), tmp_path, threads=1)
    with pytest.raises(ValueError, match=r"before.stages.expert.steps was 4 and is 5"):
        train(override(curriculum(), {"before.stages.expert.steps": "5"}), tmp_path, resume=True, threads=1)
    with pytest.raises(FileExistsError, match="--resume"):
        train(curriculum(), tmp_path, threads=1)
    again = override(curriculum(), {"before.stages.expert.log_every": "1"})
    assert train(again, tmp_path, resume=True, threads=1).name == "step-000005"
    assert train(curriculum(steps=1), tmp_path, overwrite=True, threads=1).name == "step-000004"


def test_weights_and_the_run_before_go_together() -> None:
    with pytest.raises(ValueError, match="no run before it"):
        replace(make_run(), weights={"trunk": "before"})
    with pytest.raises(ValueError, match="go together"):
        replace(curriculum(), weights={})
    assert "before" not in run_to_json(make_run())

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.training.fakes import install, make_run, stage
from visuomotor.training.metrics import read_metrics
from visuomotor.training.tracker import TRACKERS, Tracker
from visuomotor.training.trainer import train


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture(params=TRACKERS)
def sent(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A tracker of that name that keeps what it is told; its name is the first entry."""
    told: list[tuple[str, Any]] = [("name", request.param)]

    def init(**given: Any) -> Any:
        told.append(("init", given))
        return SimpleNamespace(log=lambda values, step: told.append(("log", (step, values))))

    module = SimpleNamespace(init=init, finish=lambda: told.append(("finish", None)))
    monkeypatch.setitem(sys.modules, request.param, module)
    return told


def test_every_line_of_metrics_is_sent_under_its_step(sent: list[tuple[str, Any]], tmp_path: Path) -> None:
    name = sent[0][1]
    run = make_run(stage(steps=4, log_every=2))
    train(run, tmp_path / "mine", tracker=name)
    kinds = [kind for kind, _ in sent]
    assert kinds[1] == "init"
    assert kinds[-1] == "finish"
    assert sent[1][1]["name"].endswith("-mine")
    assert sent[1][1]["resume"] == "allow"
    assert ("id" in sent[1][1]) == (name == "wandb")
    logged = [value for kind, value in sent if kind == "log"]
    written = read_metrics(tmp_path / "mine" / "metrics.jsonl")
    assert [step for step, _ in logged] == [entry["step"] for entry in written]
    assert len(logged) >= 2
    assert logged[0][1]["loss"] == written[0]["loss"]
    assert "stage" not in logged[0][1]


def test_a_tracker_that_fails_costs_no_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    module = SimpleNamespace(init=lambda **_: SimpleNamespace(log=fail), finish=fail)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with caplog.at_level(logging.WARNING):
        train(make_run(stage(steps=4, log_every=1)), tmp_path / "mine", tracker="wandb")
    assert caplog.text.count("no route to host") == 1
    assert len(read_metrics(tmp_path / "mine" / "metrics.jsonl")) >= 4


def test_unknown_and_missing_trackers_are_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'visuomotor\[trackio\]'"):
        Tracker("trackio")
    with pytest.raises(ValueError, match="no tracker 'tensorboard'"):
        train(make_run(stage()), tmp_path / "mine", tracker="tensorboard")
    assert not (tmp_path / "mine").exists()

from pathlib import Path

import pytest
import torch

from tests.training.fakes import install, make_run
from visuomotor.contract import Term
from visuomotor.training.metrics import read_metrics
from visuomotor.training.sources import SourceLosses
from visuomotor.training.trainer import train


def term(sums: list[float], counts: list[float]) -> Term:
    rows = torch.tensor([sums, counts])
    return Term(sum=rows[0].sum(), count=rows[1].sum(), rows=rows)


def test_means_are_those_of_each_sources_samples() -> None:
    losses = SourceLosses(["a", "b", "c"])
    losses.add({"flow": term([1, 2, 3], [1, 1, 2]), "text": term([0, 4, 0], [0, 2, 0])}, torch.tensor([0, 1, 0]))
    losses.add({"flow": term([6], [3])}, torch.tensor([1]))
    losses.add({"unknown": Term(sum=torch.ones(()), count=torch.ones(()))}, torch.tensor([2]))
    assert losses.means() == {"a": {"flow": pytest.approx(4 / 3)}, "b": {"flow": 2.0, "text": 2.0}}
    assert losses.means() == {}


def test_one_source_has_no_losses_of_its_own() -> None:
    losses = SourceLosses(["a"])
    losses.add({"flow": term([1], [1])}, torch.tensor([0]))
    assert losses.means() == {}


def test_a_run_logs_them_and_the_whole_is_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    run = make_run()
    train(run, tmp_path / "run", threads=1)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all("source_loss/robot/text" in line and "source_loss/other/text" in line for line in lines)
    for line in lines:
        low, high = sorted(line[f"source_loss/{name}/text"] for name in ("robot", "other"))
        assert low <= line["loss/text"] <= high

from pathlib import Path

import pytest
import torch

from tests.models.dm0.test_convert import folder
from tests.text.test_qwen import qwen_folder
from visuomotor.cli.main import main
from visuomotor.models.dm0.convert import read_published
from visuomotor.policy import load_policy

__all__ = ["folder", "qwen_folder"]


def test_there_and_back(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(folder), "--out", str(ours), "--robot", "franka", "--normalization", "quantile"]) == 0
    assert "tensors loaded" in capsys.readouterr().out
    policy = load_policy(ours)
    assert policy.embodiment.name == "franka"
    assert policy.provenance["published_config"]["model_type"] == "dexbotic_dm0"
    assert main(["convert", str(ours), "--out", str(back)]) == 0
    first, second = read_published(folder).model, read_published(back).model
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, second.get_parameter(name))


def test_what_is_missing_is_asked_for(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["convert", str(folder), "--out", out]) == 1
    assert "--robot one of aloha" in capsys.readouterr().err
    assert main(["convert", str(folder), "--out", out, "--robot", "pr2"]) == 1
    assert "no robot 'pr2'" in capsys.readouterr().err
    assert main(["convert", str(folder), "--out", str(tmp_path), "--robot", "ur5"]) == 1
    assert "exists already" in capsys.readouterr().err

from pathlib import Path

import pytest
import torch
from torch import nn

from visuomotor.models import read_checkpoint
from visuomotor.training import checkpoint
from visuomotor.training.checkpoint import prune, set_last, transplant, write_folder
from visuomotor.training.ema import MovingAverage


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.out = nn.Linear(2, 4, bias=False)
        self.out.weight = self.embed.weight
        self.head = nn.Linear(2, 3)


def test_transplant_reports_every_tensor() -> None:
    model = Tied()
    kept = model.head.bias.detach().clone()
    state = {"embed.weight": torch.ones(4, 2), "head.weight": torch.ones(5, 2), "old.weight": torch.ones(1)}
    report = transplant(model, state)
    assert report.loaded == ("embed.weight", "out.weight")  # tied: loaded under one name, there under both
    assert report.missing == ("head.bias",)
    assert report.unexpected == ("old.weight",)
    assert report.mismatched == (("head.weight", (5, 2), (3, 2)),)
    assert torch.equal(model.out.weight, torch.ones(4, 2))
    assert torch.equal(model.head.bias, kept)
    text = str(report)
    for part in ("2 tensors loaded", "1 missing (head.bias)", "1 unexpected (old.weight)", "[5, 2] against [3, 2]"):
        assert part in text


def test_state_round_trip_is_exact(tmp_path: Path) -> None:
    def model_and_optimiser() -> tuple[Tied, torch.optim.AdamW]:
        model = Tied()
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def advance(model: Tied, optimiser: torch.optim.AdamW) -> None:
        model.head(model.embed(torch.tensor([1, 2]))).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    model, optimiser = model_and_optimiser()
    advance(model, optimiser)
    checkpoint.save_state(tmp_path / "state", model, optimiser, {"head.bias": torch.zeros(3)}, {"step": 7})
    other, fresh = model_and_optimiser()
    facts, shadow = checkpoint.load_state(tmp_path / "state", other, fresh)
    assert facts == {"step": 7}
    assert torch.equal(shadow["head.bias"], torch.zeros(3))
    advance(model, optimiser)
    advance(other, fresh)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step-000001"

    def good(path: Path) -> None:
        path.mkdir()
        (path / "file").write_text("old")

    def bad(path: Path) -> None:
        good(path)
        raise OSError(28, "No space left on device")

    write_folder(folder, good)
    with pytest.raises(OSError, match=r"No space left on device .* Earlier checkpoints are intact"):
        write_folder(folder, bad)
    assert (folder / "file").read_text() == "old"
    assert [p.name for p in folder.parent.iterdir()] == ["step-000001"]


def test_prune_keeps_the_newest_and_removes_what_a_kill_left(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        (tmp_path / "checkpoints" / checkpoint.step_name(step)).mkdir(parents=True)
    (tmp_path / "checkpoints" / ".tmp-step-000005").mkdir()
    set_last(tmp_path, "step-000003")  # 4 was written, but not its state
    prune(tmp_path, 1, ["step-000001"])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000001", "step-000003"]


def test_last_must_point_at_whole_folders(tmp_path: Path) -> None:
    assert checkpoint.last_step(tmp_path) is None
    set_last(tmp_path, "step-000003")
    with pytest.raises(FileNotFoundError, match="--overwrite"):
        checkpoint.last_step(tmp_path)


def test_unreadable_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        read_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="truncated"):
        read_checkpoint(tmp_path)


def test_moving_average_follows_and_swaps() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = MovingAverage(model, 0.5)
    nn.init.ones_(model.weight)
    average.update()  # decay starts at 2 / 11
    assert average.shadow["weight"].item() == pytest.approx(9 / 11)
    with average.applied():
        assert model.weight.item() == pytest.approx(9 / 11)
    assert model.weight.item() == 1.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        MovingAverage(model, 1.5)

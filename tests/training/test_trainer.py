import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.fakes import MemoryDataset, install, make_run, stage, two_stages
from visuomotor.contract import Run
from visuomotor.policy import load_policy
from visuomotor.training.metrics import read_metrics
from visuomotor.training.progress import Progress
from visuomotor.training.provenance import parent_of
from visuomotor.training.step import Diverged
from visuomotor.training.trainer import train

ROOT = Path(__file__).parents[2]
KILLED = ("3:SIGKILL", "5:SIGKILL", "7:SIGKILL")  # inside the first stage, at its end, inside the second
WHOLE = Path("whole/checkpoints/step-000009")
STOPPED = ("3:SIGINT", "3:SIGTERM")


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.fixture(scope="module")
def struck(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    """Folder with one run per case, each ended by a signal in a process of its own, and their exit codes."""
    folder = tmp_path_factory.mktemp("struck")
    command = [sys.executable, "-m", "tests.training.fakes", str(folder), *KILLED, *STOPPED]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_trains_and_leaves_a_policy_metrics_and_provenance(tmp_path: Path) -> None:
    seen: list[Progress] = []
    last = train(make_run(stage(validate_every=3)), tmp_path, progress=seen.append, threads=1)
    assert last == tmp_path / "checkpoints" / "step-000006"
    assert load_policy(last).provenance["steps"] == 6
    facts = json.loads((last / "provenance.json").read_text())
    assert facts["data"] == {"robot": "hash of fake-0", "other": "hash of fake-1"}
    assert [s.step for s in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].seconds_left == 0
    entries = read_metrics(tmp_path / "metrics.jsonl")
    training = [e for e in entries if "loss" in e]
    assert [e["step"] for e in training] == [2, 4, 6]
    assert {"loss/action", "loss/text", "lr/head", "grad_norm", "samples_per_second", "data_wait"} <= training[0].keys()
    assert [e["step"] for e in entries if "loss" not in e] == [3, 6]
    for name in ("loss/action", "action_error/1", "action_error/2", "action_error/4", "action_error/all",
                 "robot_error/position", "robot_error/joints", "robot_error/gripper"):  # fmt: skip
        assert entries[-1][f"validation/{name}"] > 0


def test_training_learns(tmp_path: Path) -> None:
    train(make_run(stage(steps=60, trains={"*": 3e-2}, checkpoint_every=0, log_every=10)), tmp_path, threads=1)
    losses = [e["loss"] for e in read_metrics(tmp_path / "metrics.jsonl")]
    assert losses[-1] < 0.7 * losses[0]


def training_lines(out: Path) -> list[tuple[int, float]]:
    return [(e["step"], e["loss"]) for e in read_metrics(out / "metrics.jsonl") if "loss" in e]


@pytest.mark.parametrize("case", KILLED)
def test_killed_and_resumed_equals_uninterrupted(struck: tuple[Path, dict[str, int]], case: str) -> None:
    folder, codes = struck
    assert codes[case] == -9
    assert_same(folder / WHOLE, train(two_stages(), folder / case, resume=True, threads=1))
    assert training_lines(folder / case) == training_lines(folder / "whole")


@pytest.mark.parametrize("case", STOPPED)
def test_signals_save_and_say_how_to_go_on(struck: tuple[Path, dict[str, int]], case: str) -> None:
    folder, codes = struck
    assert codes[case] == 130
    assert "--resume" in (folder / case).with_suffix(".err").read_text()
    assert (folder / case / "last").read_text() == "step-000003\n"
    assert_same(folder / WHOLE, train(two_stages(), folder / case, resume=True, threads=1))


def test_time_limit_stops_and_resumes(tmp_path: Path) -> None:
    first = train(two_stages(), tmp_path / "a", stop_after_seconds=0.0, threads=1)
    assert first.name == "step-000000"
    assert_same(
        train(two_stages(), tmp_path / "a", resume=True, threads=1), train(two_stages(), tmp_path / "b", threads=1)
    )


def test_resuming_on_changed_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(make_run(), tmp_path, stop_after_seconds=0.0, threads=1)
    monkeypatch.setattr(MemoryDataset, "hash", lambda self: "something else")
    with pytest.raises(ValueError, match=r"Data set 'robot' .* changed since step-000000"):
        train(make_run(), tmp_path, resume=True, threads=1)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    last = train(make_run(), tmp_path, threads=1)
    before = (last / "model.safetensors").stat().st_mtime_ns
    assert train(make_run(), tmp_path, resume=True, threads=1) == last
    assert (last / "model.safetensors").stat().st_mtime_ns == before


def test_refuses_a_used_folder_and_another_run(tmp_path: Path) -> None:
    train(make_run(), tmp_path, threads=1)
    with pytest.raises(FileExistsError, match="--resume"):
        train(make_run(), tmp_path, threads=1)
    with pytest.raises(ValueError, match=r"stages.train.steps was 6 and is 7"):
        train(make_run(stage(steps=7)), tmp_path, resume=True, threads=1)
    assert train(make_run(stage(steps=3)), tmp_path, overwrite=True, threads=1).name == "step-000003"
    assert not (tmp_path / "checkpoints" / "step-000006").exists()


def test_overwrite_leaves_the_users_own_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    train(make_run(), tmp_path, threads=1)
    train(make_run(), tmp_path, overwrite=True, threads=1)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_keeps_the_last_checkpoints_and_each_stages_last(tmp_path: Path) -> None:
    first, second = stage("a", steps=3, checkpoint_every=1, keep=1), stage("b", steps=5, checkpoint_every=1, keep=1)
    train(make_run(first, second), tmp_path, threads=1)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-000003", "step-000008"]
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["step-000008"]


def test_micro_batches_give_the_same_gradient(tmp_path: Path) -> None:
    def trained(accumulate: int) -> dict[str, torch.Tensor]:
        run = make_run(stage(accumulate=accumulate, steps=1, batch_size=8))
        return weights(train(run, tmp_path / str(accumulate), threads=1))

    whole, parts = trained(1), trained(4)
    for name, tensor in whole.items():  # only the model's own noise (0.01) differs
        torch.testing.assert_close(tensor, parts[name], atol=2.1e-3, rtol=0)


def test_unnamed_parts_are_frozen(tmp_path: Path) -> None:
    last = train(make_run(stage(trains={"head": 1e-2}, steps=1)), tmp_path / "a", threads=1)
    fresh = train(make_run(stage(trains={"head": 1e-9}, steps=1)), tmp_path / "b", threads=1)
    a, b = weights(last), weights(fresh)
    assert {name for name in a if not torch.equal(a[name], b[name])} == {"head.weight", "head.bias"}


def test_not_finite_stops_with_step_terms_and_sources(tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"step 4 of stage 'train'.*action nan.*from 'robot'") as caught:
        train(make_run(stage(checkpoint_every=1), poison_step=4), tmp_path, threads=1)
    assert "earlier checkpoints are intact" in str(caught.value)
    load_policy(tmp_path / "checkpoints" / "step-000003")


def test_a_full_disk_keeps_earlier_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visuomotor.training import checkpoint

    real = checkpoint.save_state

    def fail(folder: Path, *rest: object) -> None:
        real(folder, *rest)  # type: ignore[arg-type]
        if folder.name.endswith("4"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_state", fail)
    with pytest.raises(
        OSError, match=r"No space left on device \(\d+ MB free there\)\. Earlier checkpoints are intact"
    ):
        train(make_run(), tmp_path, threads=1)
    monkeypatch.undo()
    install(monkeypatch)
    assert (tmp_path / "last").read_text() == "step-000002\n"
    resumed = train(make_run(), tmp_path, resume=True, threads=1)
    assert_same(resumed, train(make_run(), tmp_path / "whole", threads=1))


def test_minutes_end_a_stage_and_anneal_fully(tmp_path: Path) -> None:
    run = make_run(stage(steps=10**6, minutes=0.5 / 60, checkpoint_every=0, warmup=1, log_every=1))
    started = time.monotonic()
    train(run, tmp_path, threads=1)
    assert time.monotonic() - started < 5
    rates = [e["lr/head"] for e in read_metrics(tmp_path / "metrics.jsonl")]
    assert rates[-1] < 0.11 * max(rates) + 1e-4


def test_bad_samples_stop_or_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visuomotor.training import assembly

    def broken(path: str) -> MemoryDataset:
        dataset = MemoryDataset(path)
        dataset.broken_rows = set(range(0, dataset.num_frames, 2))
        return dataset

    monkeypatch.setattr(assembly, "open_source", broken)
    with pytest.raises(ValueError, match="the video is truncated"):
        train(make_run(), tmp_path / "stop", threads=1)
    train(make_run(), tmp_path / "go", bad_samples="quarantine", threads=1)
    listed = [json.loads(line) for line in (tmp_path / "go" / "quarantine.jsonl").read_text().splitlines()]
    assert listed
    assert all(entry["row"] % 2 == 0 for entry in listed)


def test_start_loads_a_checkpoint_and_reports(tmp_path: Path) -> None:
    parent = train(make_run(), tmp_path / "parent", threads=1)
    run = make_run(stage(start=str(parent), trains={"head": 1e-3}))
    child = train(run, tmp_path / "child", threads=1)
    assert torch.equal(weights(parent)["trunk.weight"], weights(child)["trunk.weight"])
    report = json.loads((tmp_path / "child" / "transplant.json").read_text())["train"]
    assert set(report["loaded"]) == set(weights(parent))
    assert json.loads((child / "provenance.json").read_text())["parents"] == {"train": parent_of(parent)}
    assert parent_of(parent)["provenance"]["steps"] == json.loads((parent / "provenance.json").read_text())["steps"]


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (Run(name="empty", model="fake", config=None, stages={}), "no stages"),
        (make_run(stage(accumulate=3)), "choose a divisor"),
        (make_run(stage(precision="fp8")), "'house'"),
        (make_run(stage(trains={"haed": 1e-3})), "Did you mean 'head'"),
        (make_run(stage(loss_weights={"actoin": 1.0})), "Did you mean 'action'"),
        (make_run(stage(start="stage:later")), "starts from 'stage:later'"),
        (dataclasses.replace(make_run(), stages={"other": stage()}), "use one name"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, run: Run, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        train(run, tmp_path, threads=1)

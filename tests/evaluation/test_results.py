"""Records on disk, their summary, and what is read back."""

import json
from pathlib import Path
from typing import Any

import pytest

from visuomotor.evaluation.provenance import checkpoint_hash, code_version
from visuomotor.evaluation.results import EpisodeRecord, Results, append_record, read_records, summarise


def record(index: int, success: bool, task: str = "lift", condition: str = "train", **other: Any) -> EpisodeRecord:
    values: dict[str, Any] = {
        "condition": condition, "index": index, "split": "train", "control": condition != "train",
        "scenario": {"environment": "fake", "task": task, "seed": index, "options": {}}, "instruction": "lift it",
        "success": success, "steps": 20, "seconds": 2.0 if success else None, "progress": 1.0 if success else 0.25,
        "latency": (0.1, 0.3), "batch": (2, 4),
    }  # fmt: skip
    return EpisodeRecord(**{**values, **other})


def test_summary_counts_by_condition_and_task() -> None:
    records = [record(0, True), record(1, False, "push"), record(2, True, seconds=4.0), record(0, False, condition="c")]
    results = summarise({"conditions": ["train", "c"]}, reversed(records))
    assert [c.name for c in results.conditions] == ["train", "c"]
    train = results["train"]
    assert (train.rate.successes, train.rate.n) == (2, 3)
    assert {task: str(rate) for task, rate in train.by_task.items()} == {
        "lift": "100.0 % [34, 100] (2/2)", "push": "0.0 % [0, 79] (0/1)"
    }  # fmt: skip
    assert train.seconds_to_success == 3.0
    assert train.mean_progress == pytest.approx(0.75)
    assert results["c"].seconds_to_success is None
    assert results["c"].control
    with pytest.raises(KeyError, match="train"):
        results["x"]


def test_calls_and_actions_are_rated_apart() -> None:
    latency = summarise({}, [record(0, True)])["train"].latency
    assert latency is not None
    inference = 0.1 / 2 + 0.3 / 4  # an episode's share of the calls it took part in
    assert latency.calls_per_second == pytest.approx(2 / inference)
    assert latency.actions_per_second == pytest.approx(20 / inference)
    assert (latency.p50, latency.mean_batch) == (pytest.approx(0.2), 3.0)
    assert summarise({}, [record(0, False, latency=(), batch=())])["train"].latency is None


def test_a_kind_of_task_is_one_row() -> None:
    scenario = {"environment": "t", "task": "push(red block, left)", "seed": 1, "options": {"kind": "push left"}}
    assert set(summarise({}, [record(0, True, scenario=scenario)])["train"].by_task) == {"push left"}


def test_results_and_records_read_back_equal(tmp_path: Path) -> None:
    records = [
        record(
            0,
            True,
            video="videos/a.mp4",
            sheet="videos/a.png",
            text=((0, "reach"), (8, "grasp")),
            router=((0, 0.25, 0),),
        ),
        record(1, False, error="it broke", attempts=2),
    ]
    for one in records:
        append_record(tmp_path / "results.jsonl", one)
    assert read_records(tmp_path / "results.jsonl") == records
    results = summarise({"plan": {"seed": 1}, "conditions": ["train"]}, records)
    results.save(tmp_path)
    assert Results.load(tmp_path) == results
    assert json.loads((tmp_path / "results.json").read_text())["conditions"][0]["rate"]["low"] > 0
    assert [v["video"] for v in results.videos] == ["videos/a.mp4"]
    assert results["train"].errors == ("episode 1 (lift): it broke",)
    columns, rows = results.table(tasks=True)
    assert [len(row) for row in rows] == [len(columns)] * 2
    assert (columns[-1], rows[0][-1]) == ("errors", "1")
    assert "errors" not in summarise({}, records[:1]).table()[0]
    assert rows[0][1] == "50.0 % [9, 91] (1/2)"


def test_a_line_cut_short_is_dropped_but_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    append_record(path, record(0, True))
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    assert read_records(path) == [record(0, True)]
    assert path.read_text() == whole
    path.write_text(whole + "{}\n")
    with pytest.raises(ValueError, match="line 2"):
        read_records(path)
    assert read_records(tmp_path / "none.jsonl") == []


def test_missing_or_damaged_results_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--resume"):
        Results.load(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="not an evaluation's result"):
        Results.load(tmp_path)


def test_a_checkpoints_hash_follows_its_content(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = checkpoint_hash(tmp_path)
    (tmp_path / "provenance.json").write_text("{}")
    assert checkpoint_hash(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert checkpoint_hash(tmp_path) != first
    assert code_version().startswith("0.")

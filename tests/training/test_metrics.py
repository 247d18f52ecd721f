from pathlib import Path

import pytest

from visuomotor.training.metrics import Meter, append, flatten, read_metrics, truncate
from visuomotor.training.plot import plot_metrics, series
from visuomotor.training.progress import Rate, clock, progress_bar
from visuomotor.training.step import StepResult
from visuomotor.training.validation import horizon_steps


def test_lines_round_trip_and_truncate(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3):
        append(path, {"step": step, "loss": 1.0 / step})
    with path.open("a") as file:
        file.write('{"step": 4, "lo')  # cut by a kill
    assert [e["step"] for e in read_metrics(path)] == [1, 2, 3]
    truncate(path, 2)
    assert [e["step"] for e in read_metrics(path)] == [1, 2]
    append(path, {"step": 3})
    assert [e["step"] for e in read_metrics(path)] == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)


def test_writing_into_nowhere_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="--resume"):
        append(tmp_path / "missing" / "metrics.jsonl", {"step": 1})


def test_flatten() -> None:
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}, "x/") == {"x/a/b/c": 1, "x/d": 2}


def test_curves_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_metrics(path, tmp_path / "none.png")
    for step in (1, 2):
        append(path, {"step": step, "loss/flow": 2.0 / step, "loss/text": 1.0, "samples_per_second": 10.0})
        append(path, {"step": step, "validation/action_error/all": 0.5})
    assert series(read_metrics(path), "loss/") == {"flow": [(1, 2.0), (2, 1.0)], "text": [(1, 1.0), (2, 1.0)]}
    assert plot_metrics(path, tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_rate_is_of_the_latest_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 100.0, 101.0])
    monkeypatch.setattr("visuomotor.training.progress.time.perf_counter", lambda: next(times))
    rate = Rate(window=2)
    assert [rate.add(0, 0.0), rate.value()][1] == (0.0, 0.0)
    rate.add(10, 0.0)
    rate.add(74, 0.25)
    assert rate.value() == (64.0, 0.25)


def test_clock() -> None:
    assert [clock(s) for s in (5.4, 75, 3700)] == ["0:05", "1:15", "1:01:40"]


def test_progress_bar_draws_a_state() -> None:
    from visuomotor.training.progress import Progress

    with progress_bar("test") as update:
        update(Progress(
            step=1, total=2, stage="train", loss=0.5, samples_per_second=10.0, data_wait=0.1, seconds_left=3.0,
            fraction=0.5,
        ))  # fmt: skip


def test_horizon_steps() -> None:
    assert [horizon_steps(t) for t in (1, 2, 8, 50)] == [(1,), (1, 2), (1, 4, 8), (1, 25, 50)]


def test_means_over_weights_below_one_are_logged_as_they_are_learnt() -> None:
    meter = Meter()
    meter.add(StepResult(loss=0.5, terms={"mani": (0.05, 0.1), "none": (0.0, 0.0)}, grad_norm=1.0), samples=4)
    entry = meter.entry(0.0)
    assert entry["loss/mani"] == pytest.approx(0.5)
    assert entry["loss/none"] == 0.0

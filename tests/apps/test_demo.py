"""The demo as a chain: what is reused, what a changed option redoes, where training starts. Its steps are fakes."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.apps.run_folder import record, write_data, write_eval, write_train
from visuomotor.apps import demo
from visuomotor.apps.demo import DemoPlan, DemoResult, StepDone, collection, demo_plan, demo_run, run_demo
from visuomotor.cli import console
from visuomotor.cli.main import main
from visuomotor.policy import load_policy
from visuomotor.simulation import tabletop
from visuomotor.simulation.tabletop.environment import EMBODIMENT
from visuomotor.training import trainer
from visuomotor.training.progress import Progress

TRAIN_STEP = demo.train_step  # the tests below replace it
ALL = ["collect", "scenes", "train", "eval"]


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[bool, bool]]:
    """Steps that only write what they would leave; {step: (resume, overwrite)} of those that ran."""
    found: dict[str, tuple[bool, bool]] = {}

    def collect_step(plan: Any, resume: bool, overwrite: bool, watch: Any) -> None:
        found["scenes" if plan.scenes else "collect"] = resume, overwrite
        watch("demonstrating")(1, 1, "")
        plan.out.mkdir(exist_ok=True)

    def train_step(plan: DemoPlan, resume: bool, overwrite: bool, watch: Any) -> None:
        found["train"] = resume, overwrite
        watch("training")(100, 100, "")
        if not (plan.out / "train").exists():
            write_train(plan.out)

    def evaluate_step(plan: DemoPlan, resume: bool, overwrite: bool, watch: Any) -> None:
        found["eval"] = resume, overwrite
        watch("evaluating")(2, 2, "")
        if not (plan.out / "eval").exists():
            write_eval(plan.out, [record(0, True), record(1, False)])

    for step in (collect_step, train_step, evaluate_step):
        monkeypatch.setattr(demo, step.__name__, step)
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No report is written."""
    monkeypatch.setattr(demo, "write_report", lambda folder, title: folder / "report.html")


def done(plan: DemoPlan, calls: dict[str, tuple[bool, bool]]) -> tuple[list[str], DemoResult, list[StepDone]]:
    """Which steps a demo did, in order, and what it returned and told."""
    calls.clear()
    told: list[StepDone] = []
    result = run_demo(plan, lambda title: lambda done, total, note: None, told.append)
    assert [step.name for step in told] == [name for name in ALL if name != "scenes" or plan.scenes]
    assert [step.name for step in told if not step.reused] == list(calls)
    return list(calls), result, told


def test_everything_once_then_nothing(tmp_path: Path, calls: dict[str, tuple[bool, bool]]) -> None:
    plan = demo_plan("tabletop", overrides={}, from_scratch=True, out=tmp_path / "run")
    ran, result, first = done(plan, calls)
    assert ran == ALL
    assert result.report == tmp_path / "run" / "report.html"
    assert result.results["train"].rate.successes == 1
    page = result.report.read_text()
    assert "Wall time" in page
    ran, _, second = done(plan, calls)
    assert ran == []
    assert [step.seconds for step in second] == [step.seconds for step in first]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ({"episodes": 7}, ["eval"]),
        ({"control_episodes": 3}, ["eval"]),
        ({"splits": ("train",)}, ["eval"]),
        ({"minutes": 1}, ["train", "eval"]),
        ({"overrides": {"stages.train.seed": "3"}}, ["train", "eval"]),
        ({"scenes": 9}, ["scenes", "train", "eval"]),
        ({"scenes": 0}, ["train", "eval"]),
        ({"demonstrations": 9}, ["collect", "train", "eval"]),
        ({"action_noise": 0.0}, ["collect", "train", "eval"]),
        ({"seed": 1}, ALL),
        ({"workers": 1}, []),
    ],
    ids=lambda value: "-".join(value),
)
def test_a_change_redoes_what_depends_on_it(
    tmp_path: Path, calls: dict[str, tuple[bool, bool]], change: dict[str, Any], redone: list[str]
) -> None:
    plan = demo_plan("tabletop", overrides={}, from_scratch=True, out=tmp_path / "run")
    done(plan, calls)
    ran, _, _ = done(replace(plan, **change), calls)
    assert ran == redone
    assert all(how == (False, True) for how in calls.values())


@pytest.mark.usefixtures("quick")
def test_other_code_redoes_all(
    tmp_path: Path, calls: dict[str, tuple[bool, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = demo_plan("tabletop", overrides={}, from_scratch=True, out=tmp_path / "run")
    done(plan, calls)
    monkeypatch.setattr(demo, "source_digest", lambda: "other")
    assert done(plan, calls)[0] == ALL


@pytest.mark.usefixtures("quick")
def test_it_goes_on_where_it_stopped(
    tmp_path: Path, calls: dict[str, tuple[bool, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = demo_plan("tabletop", overrides={}, from_scratch=True, out=tmp_path / "run")

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "train_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_demo(plan, lambda title: lambda done, total, note: None)
    assert done(plan, calls)[0] == ["train", "eval"]
    assert calls == {"train": (True, False), "eval": (False, True)}


def test_somebodys_data_is_not_overwritten(tmp_path: Path, calls: dict[str, tuple[bool, bool]]) -> None:
    write_data(tmp_path)
    with pytest.raises(FileExistsError, match="Choose another folder"):
        done(demo_plan("tabletop", overrides={}, from_scratch=True, out=tmp_path), calls)
    assert not calls


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shipped"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"first")
    monkeypatch.setattr(tabletop, "WORLD", replace(tabletop.WORLD, checkpoint=folder))
    return folder


def test_from_scratch(shipped: Path) -> None:
    assert demo_plan("tabletop", overrides={}).start == str(shipped)
    assert demo_plan("tabletop", full=True, overrides={}).start == str(shipped)
    assert demo_plan("tabletop", from_scratch=True, overrides={}).start is None
    assert demo_plan("metaworld", overrides={}).start is None
    started = demo_run(demo_plan("tabletop", overrides={}))
    assert [stage.start for stage in started.stages.values()] == [str(shipped), None]
    fresh = demo_run(demo_plan("tabletop", from_scratch=True, overrides={}))
    assert [stage.start for stage in fresh.stages.values()] == [None, None, None]


@pytest.mark.usefixtures("quick")
def test_another_start_trains_again(tmp_path: Path, shipped: Path, calls: dict[str, tuple[bool, bool]]) -> None:
    plan = demo_plan("tabletop", overrides={}, out=tmp_path / "run")
    done(plan, calls)
    assert done(plan, calls)[0] == []
    (shipped / "model.safetensors").write_bytes(b"second")
    assert done(plan, calls)[0] == ["train", "eval"]
    assert done(replace(plan, start=None), calls)[0] == ["train", "eval"]


def test_what_is_collected_is_what_is_evaluated(tmp_path: Path) -> None:
    plan = demo_plan("metaworld", overrides={})
    assert collection(plan, tmp_path, 1, 0).options == {"tasks": "pairs"} == demo_run(plan).evaluation.options
    tabletop = demo_plan("tabletop", overrides={})
    assert collection(tabletop, tmp_path, 1, 0).options == {"anywhere": 0.4, **demo_run(tabletop).evaluation.options}
    assert collection(tabletop, tmp_path, 1, 9).options == demo_run(tabletop).evaluation.options


def test_the_full_demo_is_larger() -> None:
    small, full = demo_plan("tabletop", overrides={}), demo_plan("tabletop", full=True, overrides={})
    assert full.demonstrations > small.demonstrations
    assert full.minutes > small.minutes
    assert full.out != small.out
    assert demo_plan("metaworld", overrides={}, demonstrations=5).demonstrations == 5


def test_the_console_tells_each_step_the_table_and_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["demo", "--out", str(tmp_path / "run"), "--episodes", "2", "--from-scratch"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [[name, "took"] for name in ALL]
    assert any("50.0 % [9, 91] (1/2)" in line for line in lines)
    assert lines[-1] == f"report: {(tmp_path / 'run' / 'report.html').as_uri()}"
    assert main(command) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[:4]] == [[n, "reused,"] for n in ALL]


def test_a_narrow_terminal_shows_whole_progress_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=written, width=80))
    state = Progress(
        step=12345, total=100_000, stage="train", loss=1.0, samples_per_second=1312.4, data_wait=1.0, seconds_left=9.0,
        fraction=1.0,
    )  # fmt: skip
    monkeypatch.setattr(trainer, "train", lambda run, out, *, resume, overwrite, progress: progress(state))
    with console.progress_bar("training") as update:
        TRAIN_STEP(demo_plan("tabletop", overrides={}), False, True, lambda title: update)
    line = written.getvalue().strip()
    assert "training" in line
    assert "100/100 %, step 12345, 1312 samples/s, wait 100%" in line
    assert line.endswith("< 00:00")


def test_a_bar_that_vanishes_leaves_nothing_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=written, width=80))
    with console.progress_bar("training", transient=True) as update:
        update(1, 2, "note")
    assert written.getvalue() == ""


def test_the_shipped_checkpoint_is_small_and_says_where_it_comes_from() -> None:
    folder = tabletop.WORLD.checkpoint
    assert folder is not None
    assert sum(f.stat().st_size for f in folder.iterdir()) < 20e6
    policy = load_policy(folder)
    assert policy.think == ("subtask", "box")
    EMBODIMENT.require_compatible(policy.embodiment, this="The world", that="the shipped checkpoint")
    origin, recipes = policy.provenance, []
    while origin:
        recipes.append(origin["recipe"])
        assert all((origin["data"], origin["code"]["commit"], origin["run"]["stages"]))
        parents = list(origin["parents"].values())
        origin = parents[0]["provenance"] if parents else None
    assert recipes[-1] == "tabletop-pretrain"
    assert "/tmp" not in (folder / "provenance.json").read_text()

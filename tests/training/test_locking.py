"""Two trainings of one folder: the second is refused before it reads or deletes anything."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.holding import leave_foreign_lock, leave_lock, snapshot
from tests.training.curriculum import curriculum, install_both
from tests.training.fakes import make_run, stage
from visuomotor.locks import FolderInUse
from visuomotor.training.progress import Progress
from visuomotor.training.step import Diverged
from visuomotor.training.trainer import train

ROOT = Path(__file__).parents[2]
HOW: list[dict[str, Any]] = [{}, {"resume": True}, {"overwrite": True}, {"resume": True, "break_lock": True}]
SECOND = f"""
import sys
from pathlib import Path
import pytest
from tests.training.fakes import install, make_run, stage
from visuomotor.cli.main import sentence
from visuomotor.locks import FolderInUse
from visuomotor.training.trainer import train
install(pytest.MonkeyPatch())
refused = 0
for how in {HOW!r}:
    try:
        train(make_run(stage(steps=4)), Path(sys.argv[1]), threads=1, **how)
    except FolderInUse as error:
        refused += 1
        print(sentence(error))
sys.exit(refused)
"""


@pytest.fixture(autouse=True)
def _models(monkeypatch: pytest.MonkeyPatch) -> None:
    install_both(monkeypatch)


def test_the_second_process_is_refused_and_the_first_ends_and_resumes(tmp_path: Path) -> None:
    out, answers, untouched = tmp_path / "run", [], []

    def meanwhile(state: Progress) -> None:
        if state.step == 3:
            before = snapshot(out)
            command = [sys.executable, "-c", SECOND, str(out)]
            answers.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True))
            untouched.append(snapshot(out) == before)

    train(make_run(stage(steps=4)), out, threads=1, progress=meanwhile)
    (answer,) = answers
    assert answer.returncode == len(HOW), answer.stderr
    lines = answer.stdout.splitlines()
    assert len(lines) == len(HOW)
    assert all(line.startswith(f"{out} is in use by process {os.getpid()} on host ") for line in lines)
    assert ["--break-lock never takes" in line for line in lines] == [False, False, False, True]
    assert untouched == [True]
    assert not list(out.rglob(".lock"))
    assert (out / "last").read_text() == "step-000004\n"
    last = train(make_run(stage(steps=4)), out, threads=1, resume=True)
    assert last.name == "step-000004"


@pytest.mark.parametrize("how", HOW)
def test_threads_and_nested_trainings_are_refused(tmp_path: Path, how: dict[str, Any]) -> None:
    out, refusals = tmp_path / "run", []

    def second() -> None:
        try:
            train(make_run(), out, threads=1, **how)
        except FolderInUse as error:
            refusals.append(str(error))

    def meanwhile(state: Progress) -> None:
        if state.step == 2:
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
            second()

    assert train(make_run(), out, threads=1, progress=meanwhile).name == "step-000006"
    assert ["another thread" in refusals[0], "this thread" in refusals[1]] == [True, True]


def test_a_run_before_is_locked_as_well(tmp_path: Path) -> None:
    out, locked = tmp_path / "run", set()

    def meanwhile(state: Progress) -> None:
        locked.add((state.stage, *sorted(p.parent.relative_to(out).as_posix() for p in out.rglob(".lock"))))

    train(curriculum(), out, threads=1, progress=meanwhile)
    assert locked == {("expert", ".", "expert"), ("align", "."), ("adapt", ".")}
    assert not list(out.rglob(".lock"))
    leave_foreign_lock(out / "expert" / ".lock")
    with pytest.raises(FolderInUse, match=f"{out / 'expert'} is in use by .* on host elsewhere"):
        train(curriculum(), out, threads=1, resume=True)
    assert train(curriculum(), out, threads=1, resume=True, break_lock=True).name == "step-000005"
    assert not list(out.rglob(".lock"))


def test_locks_that_were_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    out = tmp_path / "run"
    train(make_run(stage(steps=2)), out, threads=1)
    leave_lock(out / ".lock")
    train(make_run(stage(steps=2)), out, threads=1, resume=True)
    assert f"Taking over the lock of {out}" in caplog.text
    leave_foreign_lock(out / ".lock")
    before = snapshot(out)
    for how in HOW[:3]:
        with pytest.raises(FolderInUse, match="--break-lock"):
            train(make_run(stage(steps=2)), out, threads=1, **how)
    assert snapshot(out) == before
    train(make_run(stage(steps=2)), out, threads=1, overwrite=True, break_lock=True)
    assert not list(out.rglob(".lock"))


def test_a_lock_ends_with_a_training_that_fails(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Diverged):
        train(make_run(poison_step=2), out, threads=1)
    assert not list(out.rglob(".lock"))

    def stop(state: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_run(), out, threads=1, overwrite=True, progress=stop)
    assert not list(out.rglob(".lock"))


def test_other_processes_of_a_distributed_run_take_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_foreign_lock(tmp_path / "run" / ".lock")
    monkeypatch.setenv("RANK", "1")
    train(make_run(stage(steps=1)), tmp_path / "run", threads=1)
    assert (tmp_path / "run" / ".lock").exists()

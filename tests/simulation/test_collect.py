"""Collecting with a fake world in real worker processes: determinism, mishaps, resuming, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.holding import leave_foreign_lock
from tests.runtime.inline import InlinePool
from visuomotor.data.lerobot import Dataset
from visuomotor.locks import FolderInUse
from visuomotor.simulation import interface
from visuomotor.simulation.collect import CollectPlan, CollectProgress, collect

HERE = Path(__file__).parent
EPISODES = 6


@pytest.fixture(scope="module", autouse=True)
def fake() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(interface.WORLDS, "fake", "fake_world")
        patch.syspath_prepend(str(HERE))
        import fake_world  # type: ignore[import-not-found]

        yield fake_world


def plan_at(out: Path, **changes: Any) -> CollectPlan:
    return replace(CollectPlan(environment="fake", out=out, episodes=EPISODES, action_noise=0.5), **changes)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set of `plan_at`, collected without trouble by one worker."""
    out = tmp_path_factory.mktemp("reference") / "set"
    collect(plan_at(out, workers=1))
    return out


def content(root: Path) -> dict[str, Any]:
    """What a data set holds, in order, as plain values."""
    data = Dataset(root)
    record = json.loads((root / "collect.json").read_text())
    # The mishap is an option of the fake world, so it belongs to the plan; it must not show in anything else.
    for key in ("options", "trouble"):
        record["plan"].pop(key, None)
    record.pop("plan_hash")
    record.pop("versions")  # the commit may change while tests run
    rows = np.arange(data.num_frames)
    return {
        "columns": {name: values.tolist() for name, values in data.columns.items()},
        "info": [data.info(e) for e in range(data.num_episodes)],
        "instructions": [data.instruction(e) for e in range(data.num_episodes)],
        "annotations": data.annotations(rows),
        "frames": {camera: data.frames(camera, rows).tobytes() for camera in data.cameras},
        "record": record,
    }


def test_keeps_the_first_successes_in_the_order_of_the_scenarios(reference: Path, fake: Any) -> None:
    data, record = Dataset(reference), json.loads((reference / "collect.json").read_text())
    tried, kept = [], []
    for scenario in fake.scenarios("train", 100, 0):
        tried.append(scenario)
        if not fake.fails(scenario):
            kept.append(scenario)
        if len(kept) == EPISODES:
            break
    assert [data.info(e)["scenario"]["seed"] for e in range(data.num_episodes)] == [s.seed for s in kept]
    assert record["failures"] == len(tried) - EPISODES > 0
    for task, counts in record["tasks"].items():
        assert counts == {
            "kept": sum(s.task == task for s in kept),
            "failed": sum(s.task == task and fake.fails(s) for s in tried),
        }
    assert sum(data.info(e)["attempts"] for e in range(data.num_episodes)) == len(tried)
    assert not reference.with_name("set.staging").exists()


def test_the_number_of_workers_changes_nothing(reference: Path, tmp_path: Path) -> None:
    seen: list[CollectProgress] = []
    report = collect(plan_at(tmp_path / "set", workers=2), progress=seen.append)
    assert content(tmp_path / "set") == content(reference)
    assert report.episodes == EPISODES == seen[-1].done == seen[-1].total
    assert report.failures == seen[-1].failures > 0
    assert [s.done for s in seen] == sorted(s.done for s in seen)


def test_the_pool_changes_nothing(reference: Path, tmp_path: Path) -> None:
    collect(plan_at(tmp_path / "set", workers=3), make_pool=InlinePool)
    assert content(tmp_path / "set") == content(reference)


def test_a_killed_worker_is_replaced_and_nothing_is_lost(
    reference: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "flag").touch()
    report = collect(plan_at(tmp_path / "set", options={"trouble": f"once:{tmp_path / 'flag'}"}))
    assert report.crashes == 1
    assert content(tmp_path / "set") == content(reference)
    assert "A worker process died (exit code -9) in scenario 3 ('b', seed 21)" in caplog.text


def test_a_worker_that_hangs_is_replaced(
    reference: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visuomotor.runtime.local.PATIENCE", 20.0)
    (tmp_path / "flag").touch()
    report = collect(plan_at(tmp_path / "set", options={"trouble": f"hang:{tmp_path / 'flag'}"}))
    assert report.crashes == 1
    assert content(tmp_path / "set") == content(reference)
    assert "silent for 20 s" in caplog.text


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("always", RuntimeError, "died .* in scenario 3 .* Finished attempts are kept"),
        ("full", OSError, "The disk of .* is full: make room. 3 finished attempts are kept"),
    ],
)
def test_after_an_error_resume_continues(
    kind: str, error: type[Exception], message: str, reference: Path, tmp_path: Path
) -> None:
    flag, out = tmp_path / "flag", tmp_path / "set"
    flag.touch()
    plan = plan_at(out, workers=1, options={"trouble": f"{kind}:{flag}"})
    with pytest.raises(error, match=message):
        collect(plan)
    assert not out.exists()
    flag.unlink()
    assert len(list(out.with_name("set.staging").glob("attempts/*"))) == 3
    with pytest.raises(FileExistsError, match="interrupted collection lies in"):
        collect(plan)
    seen: list[CollectProgress] = []
    collect(plan, resume=True, progress=seen.append)
    assert seen[0].done + seen[0].failures == 3, "finished attempts are not repeated"
    assert content(out) == content(reference)


def test_killed_as_a_whole_and_resumed(reference: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = tmp_path / "set"
    staging = out.with_name("set.staging")
    plan = plan_at(out, options={"delay": 0.02})
    code = (
        "import sys; from pathlib import Path; from visuomotor.simulation import collect as c, interface\n"
        "if __name__ == '__main__':\n"
        f"    sys.path.insert(0, {str(HERE)!r}); interface.WORLDS['fake'] = 'fake_world'\n"
        f"    c.collect(c.CollectPlan(environment='fake', out=Path({str(out)!r}), episodes={EPISODES}, "
        "action_noise=0.5, options={'delay': 0.02}))\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)])
    wait_until(lambda: len(list(staging.glob("attempts/*/record.json"))) >= 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert (tmp_path / ".set.lock").exists()
    before = set(staging.glob("attempts/*"))
    seen: list[CollectProgress] = []
    collect(plan, resume=True, progress=seen.append)
    assert f"Taking over the lock of {out}, left by process {process.pid} on host" in caplog.text
    assert not list(tmp_path.glob(".*"))
    assert seen[0].done + seen[0].failures >= len(before) >= 2
    assert content(out) == content(reference)


HOW: list[dict[str, Any]] = [{}, {"resume": True}, {"overwrite": True}, {"overwrite": True, "break_lock": True}]
SECOND = f"""
import sys
from pathlib import Path
from visuomotor.locks import FolderInUse
from visuomotor.simulation import collect as c, interface
if __name__ == '__main__':
    sys.path.insert(0, {str(HERE)!r})
    interface.WORLDS['fake'] = 'fake_world'
    refused = 0
    for how in {HOW!r}:
        try:
            plan = c.CollectPlan(environment='fake', out=Path(sys.argv[1]), episodes={EPISODES}, action_noise=0.5)
            c.collect(plan, **how)
        except FolderInUse as error:
            refused += 1
            print(error)
    sys.exit(refused)
"""


def test_a_second_collection_is_refused_and_the_first_is_whole(reference: Path, tmp_path: Path) -> None:
    """Into the data set's folder, and into what is the first one's staging folder."""
    out, answers = tmp_path / "set", []

    def meanwhile(state: CollectProgress) -> None:
        if len(answers) < 2:
            target = (out, tmp_path / "set.staging")[len(answers)]
            command = [sys.executable, "-c", SECOND, str(target)]
            answers.append(subprocess.run(command, capture_output=True, text=True))

    report = collect(plan_at(out, workers=1), progress=meanwhile)
    assert report.episodes == EPISODES
    assert content(out) == content(reference)
    for answer in answers:
        assert answer.returncode == len(HOW), answer.stderr
        assert answer.stdout.count(f" is in use by process {os.getpid()} on host ") == len(HOW)
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
    assert Dataset(out).hash() == Dataset(shutil.copytree(out, tmp_path / "copy")).hash()
    leave_foreign_lock(tmp_path / ".set.lock")
    with pytest.raises(FolderInUse, match="host elsewhere"):
        collect(plan_at(out), resume=True)
    assert collect(plan_at(out), resume=True, break_lock=True).seconds == 0
    assert not (tmp_path / ".set.lock").exists()


def test_a_collection_leaves_no_lock_when_it_fails(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    with pytest.raises(OSError, match="make room"):
        collect(plan_at(tmp_path / "set", workers=1, options={"trouble": f"full:{flag}"}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["flag", "set.staging"]
    assert not list(tmp_path.rglob("*.lock"))


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the collection did not get so far"
        time.sleep(0.01)


def test_what_is_there_is_not_overwritten_unless_told(reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    shutil.copytree(reference, out)
    with pytest.raises(FileExistsError, match=r"exists\. Choose another folder"):
        collect(plan_at(out))
    with pytest.raises(ValueError, match=r"another plan \(action_noise: 0.5 there, 0.25 now; seed: 0 there, 3 now\)"):
        collect(plan_at(out, action_noise=0.25, seed=3), resume=True)
    done = collect(plan_at(out, workers=7), resume=True)
    assert (done.episodes, done.seconds) == (EPISODES, 0.0)
    collect(plan_at(out, workers=1, episodes=1, storage="image"), overwrite=True)
    assert Dataset(out).num_episodes == 1
    with pytest.raises(ValueError, match="not both"):
        collect(plan_at(out), resume=True, overwrite=True)


def test_overwrite_spares_what_is_not_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is not a data set"):
        collect(plan_at(tmp_path), overwrite=True)
    with pytest.raises(FileExistsError, match="was not made by collect"):
        collect(plan_at(tmp_path), resume=True)
    assert (tmp_path / "thesis.tex").exists()


def test_images_are_stored_losslessly_and_scenes_come_in_groups(tmp_path: Path) -> None:
    out, seen = tmp_path / "set", list[CollectProgress]()
    report = collect(plan_at(out, workers=1, scenes=70, storage="image"), progress=seen.append)
    data = Dataset(out)
    assert report.frames == 70 == seen[-1].done == seen[-1].total
    assert [data.episode_slice(e) for e in range(data.num_episodes)] == [slice(0, 50), slice(50, 70)]
    assert data.instruction(0) == ""
    assert data.info(0)["kind"] == "scenes"
    assert not data.columns["action"].any()
    positions = data.columns["observation.state"]
    assert len(np.unique(positions, axis=0)) == 70
    frames = data.frames("top", np.arange(70))
    np.testing.assert_array_equal(frames[:, 3, 5, :2], np.clip(positions * 200, 0, 255).astype(np.uint8))


def test_too_few_successes(tmp_path: Path) -> None:
    plan = plan_at(tmp_path / "set", workers=1, episodes=2, seed=1, max_attempts_factor=1)
    with pytest.raises(RuntimeError, match=r"Only 1 of 2 demonstrations succeeded in 2 attempts \(failures: a 1\)"):
        collect(plan)
    report = collect(replace(plan, max_attempts_factor=4), resume=True)
    assert (report.episodes, report.failures) == (2, 1)


def test_a_plan_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers must be at least 1, but 0"):
        plan_at(tmp_path, workers=0)
    for _ in range(2):  # the first refusal leaves nothing that would change the second
        with pytest.raises(ValueError, match=r"no option 'colour'\. It has delay, places, render_quality, trouble"):
            collect(plan_at(tmp_path / "set", options={"colour": 1}))

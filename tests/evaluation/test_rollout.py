"""evaluate(): determinism, controls, deaths, resume, bad policies. Workers are real processes."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.evaluation import fake_world
from tests.holding import leave_foreign_lock, snapshot
from tests.runtime.inline import InlinePool
from visuomotor.contract import ActionChunk, Embodiment, EvalPlan, Observation, Scenario
from visuomotor.evaluation import rollout
from visuomotor.evaluation.results import RECORDS_FILE, EpisodeRecord, Results, append_record, read_records
from visuomotor.evaluation.rollout import Progress, evaluate, make_shards, noise_seed
from visuomotor.locks import FolderInUse
from visuomotor.policy import Session
from visuomotor.simulation import interface

ROOT = Path(__file__).parents[2]


class Listener:
    """Goes where the words say, in noisy steps; stands still in the dark."""

    def __init__(self, embodiment: Embodiment = fake_world.EMBODIMENT) -> None:
        self.embodiment = embodiment
        self.batches: list[int] = []
        self.sessions: list[Session] = []
        self.calls: list[tuple[float, int]] = []

    def infer(self, observations: list[Observation], sessions: list[Session], seeds: list[int]) -> list[ActionChunk]:
        for session in sessions:
            session.calls += 1
        self.sessions += sessions
        self.batches.append(len(observations))
        self.calls += [(float(o.state[0]), seed) for o, seed in zip(observations, seeds, strict=True)]
        return [self.chunk(o, seed) for o, seed in zip(observations, seeds, strict=True)]

    def chunk(self, observation: Observation, seed: int) -> ActionChunk:
        lit = observation.images["top"].max() > 0
        side = -1 if "left" in observation.instruction else 1 if "right" in observation.instruction else 0
        noise = np.random.default_rng(seed).normal(0.03, 0.08, (8, 1))
        actions = (side * (0.05 + noise) if lit else 0 * noise).astype(np.float32)
        return ActionChunk(actions=actions, embodiment=self.embodiment, text={"subtask": f"move {side:+d}"})


PLAN = EvalPlan(environment="fake", episodes=10, control_episodes=4, max_steps=24, execute=4)
CLEAN = replace(PLAN, control_episodes=0)


def outcomes(folder: Path) -> dict[tuple[str, int], tuple[Any, ...]]:
    return {
        (r.condition, r.index): (r.success, r.steps, r.progress, r.instruction)
        for r in read_records(folder / RECORDS_FILE)
    }


def test_controls_tell_a_policy_that_sees_and_listens(tmp_path: Path) -> None:
    states: list[Progress] = []
    results = evaluate(Listener(), PLAN, tmp_path / "two", workers=2, videos=1, progress=states.append)
    assert [c.name for c in results.conditions] == ["train", "wrong_instruction", "black_cameras", "heldout_paraphrase"]
    assert results["train"].rate.n == 10
    assert results["train"].rate.value > 0.5
    assert results["heldout_paraphrase"].rate.value > 0
    assert results["wrong_instruction"].rate.successes == 0  # counted for the scene's own task
    assert results["black_cameras"].rate.successes == 0
    assert set(results["train"].by_task) == {"left", "right"}
    assert states[0].done == 0
    assert (states[-1].done, states[-1].total) == (22, 22)
    assert results == Results.load(tmp_path / "two")
    assert results.run["plan"]["seed"] == PLAN.seed
    assert results.run["max_steps"] == 24
    assert results.run["checkpoint_hash"] is None
    assert "mujoco" in results.run["versions"]

    policy = Listener()
    evaluate(policy, PLAN, tmp_path / "one", workers=1, videos=0)
    assert outcomes(tmp_path / "one") == outcomes(tmp_path / "two")
    assert max(policy.batches) >= 4  # environments that wait share a call
    assert len({id(session) for session in policy.sessions}) == 22  # one for each episode
    for record in read_records(tmp_path / "one" / RECORDS_FILE):
        assert len(record.latency) == -(-record.steps // PLAN.execute)
        assert record.seconds == (record.steps / 10 if record.success else None)
        assert record.text[0] == (0, "move -1" if "left" in record.instruction else "move +1")


def test_the_pool_changes_nothing(tmp_path: Path) -> None:
    evaluate(Listener(), PLAN, tmp_path / "processes", workers=2, videos=0)
    evaluate(Listener(), PLAN, tmp_path / "inline", workers=3, videos=0, make_pool=InlinePool)
    assert outcomes(tmp_path / "inline") == outcomes(tmp_path / "processes")


def test_videos_are_kept_up_to_the_quota_and_play(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    results = evaluate(Listener(), CLEAN, tmp_path, workers=1, videos=1)
    kept = [v["success"] for v in results.videos]
    assert 1 <= len(kept) <= 2
    assert len(set(kept)) == len(kept)
    files = sorted(p.name for p in (tmp_path / "videos").iterdir())
    assert files == sorted(Path(v[k]).name for v in results.videos for k in ("video", "sheet"))
    with av.open(str(tmp_path / results.videos[0]["video"])) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert sum(1 for _ in container.decode(video=0)) == results.videos[0]["steps"] + 1 + 10


def test_a_killed_worker_is_replaced_and_nothing_is_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crash = replace(CLEAN, options={"crash_file": str(tmp_path / "crashed")})
    evaluate(Listener(), crash, tmp_path / "killed", workers=1, videos=0)
    evaluate(Listener(), CLEAN, tmp_path / "calm", workers=1, videos=0)
    assert outcomes(tmp_path / "killed") == outcomes(tmp_path / "calm")
    retried = [r for r in read_records(tmp_path / "killed" / RECORDS_FILE) if r.attempts == 2]
    assert any(r.scenario["seed"] % 10 == 3 for r in retried)
    assert "died (exit code -9)" in caplog.text


def test_a_worker_that_hangs_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visuomotor.runtime.local.PATIENCE", 2.0)
    hang = replace(CLEAN, options={"crash_file": str(tmp_path / "crashed"), "hang": True})
    evaluate(Listener(), hang, tmp_path / "hung", workers=1, videos=0)
    evaluate(Listener(), CLEAN, tmp_path / "calm", workers=1, videos=0)
    assert outcomes(tmp_path / "hung") == outcomes(tmp_path / "calm")
    assert "silent for 2 s" in caplog.text


def test_a_scenario_that_kills_twice_fails_alone(tmp_path: Path) -> None:
    plan = replace(CLEAN, options={"always_crash": PLAN.seed + 3})
    results = evaluate(Listener(), plan, tmp_path, workers=2, videos=0)
    assert results["train"].rate.n == 10
    assert len(results["train"].errors) == 1
    assert "died twice" in results["train"].errors[0]


def test_resume_does_only_what_is_missing(tmp_path: Path) -> None:
    evaluate(Listener(), CLEAN, tmp_path / "whole", workers=1, videos=0)
    whole = outcomes(tmp_path / "whole")
    lines = (tmp_path / "whole" / RECORDS_FILE).read_text().splitlines(keepends=True)
    (tmp_path / "whole" / RECORDS_FILE).write_text("".join(lines[:6]) + lines[6][:50])  # killed while writing
    policy = Listener()
    results = evaluate(policy, CLEAN, tmp_path / "whole", workers=1, videos=0, resume=True)
    assert outcomes(tmp_path / "whole") == whole
    assert results["train"].rate.n == 10
    with pytest.raises(FileExistsError, match="--resume"):
        evaluate(policy, CLEAN, tmp_path / "whole")
    with pytest.raises(ValueError, match="another plan"):
        evaluate(policy, replace(CLEAN, execute=2), tmp_path / "whole", resume=True)


def test_a_non_finite_chunk_fails_the_episode_and_not_the_run(tmp_path: Path) -> None:
    class Broken(Listener):
        def chunk(self, observation: Observation, seed: int) -> ActionChunk:
            chunk = super().chunk(observation, seed)
            if "left" in observation.instruction:
                chunk.actions[2] = np.nan
            return chunk

    results = evaluate(Broken(), CLEAN, tmp_path, workers=1, videos=1)
    assert results["train"].by_task["left"].successes == 0
    assert results["train"].by_task["right"].successes > 0
    assert len(results["train"].errors) == 5
    assert "non-finite" in results["train"].errors[0]
    assert "step 2" in results["train"].errors[0]


def test_the_router_is_recorded_at_every_look(tmp_path: Path) -> None:
    class Routed(Listener):
        def chunk(self, observation: Observation, seed: int) -> ActionChunk:
            return replace(super().chunk(observation, seed), extras={"router": 0.25, "head": 0})

    evaluate(Routed(), CLEAN, tmp_path, workers=1, videos=0)
    for record in read_records(tmp_path / RECORDS_FILE):
        assert record.router == tuple((step, 0.25, 0) for step in range(0, record.steps, CLEAN.execute))
        assert [name for name, _ in record.stages] == ["half", "whole"]
        assert dict(record.stages)["whole"] == pytest.approx(record.progress)


def test_a_refusal_fails_its_episode_but_a_policy_that_never_answers_stops_the_run(tmp_path: Path) -> None:
    class Refusing(Listener):
        def __init__(self, words: str) -> None:
            super().__init__()
            self.words = words

        def infer(
            self, observations: list[Observation], sessions: list[Session], seeds: list[int]
        ) -> list[ActionChunk]:
            if any(self.words in o.instruction for o in observations):
                raise ValueError("The model produced NaN")
            return super().infer(observations, sessions, seeds)

    results = evaluate(Refusing("right"), CLEAN, tmp_path / "one", workers=1, videos=0)
    assert results["train"].by_task["right"].successes == 0
    assert results["train"].by_task["left"].successes > 0
    assert len(results["train"].errors) == 5
    with pytest.raises(ValueError, match="produced NaN"):
        evaluate(Refusing("go"), CLEAN, tmp_path / "all", workers=1, videos=0)


def test_an_environment_that_raises_fails_its_episode(tmp_path: Path) -> None:
    results = evaluate(Listener(), replace(CLEAN, options={"broken_seed": PLAN.seed}), tmp_path, workers=1, videos=0)
    assert ["the gear is stuck" in e for e in results["train"].errors] == [True]


def test_what_cannot_work_is_refused_before_anything_starts(tmp_path: Path) -> None:
    other = replace(fake_world.EMBODIMENT, name="car", control_hz=20.0)
    with pytest.raises(ValueError, match=r"'car'.*20.0 Hz against 10.0 Hz"):
        evaluate(Listener(other), CLEAN, tmp_path)
    with pytest.raises(ValueError, match="belong to training"):
        evaluate(Listener(), replace(CLEAN, seed=3), tmp_path)
    with pytest.raises(ValueError, match=r"1 evaluation scenarios.*100002"):
        evaluate(Listener(), CLEAN, tmp_path, training_scenarios=[{"environment": "fake", "seed": 100_002}])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_says_what_is_kept_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def append(path: Path, record: EpisodeRecord) -> None:
        if path.exists() and len(read_records(path)) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        append_record(path, record)

    with monkeypatch.context() as full:
        full.setattr(rollout, "append_record", append)
        with pytest.raises(OSError, match=r"is full\. 3 of 10 episodes are recorded; .*--resume"):
            evaluate(Listener(), CLEAN, tmp_path, workers=1, videos=0)
    assert evaluate(Listener(), CLEAN, tmp_path, workers=1, videos=0, resume=True)["train"].rate.n == 10


def test_a_worker_that_cannot_start_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = ModuleType("only_in_this_process")
    ghost.make = type("make", (fake_world.PointEnvironment,), {"__module__": ghost.__name__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, ghost.__name__, ghost)
    world = replace(fake_world.WORLD, make=ghost.make)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="could not start"):
        evaluate(Listener(), CLEAN, tmp_path, world=world, workers=1, videos=0)


def test_shards_and_seeds_depend_on_the_plan_alone() -> None:
    jobs: list[Any] = list(range(103))
    shards = make_shards(jobs)
    assert [job for shard in shards for job in shard] == jobs
    assert {len(shard) for shard in shards[:-1]} == {7}
    a, b = fake_world.scenarios("train", 2, 100_000)
    assert noise_seed(a, 0) == noise_seed(a, 0)
    assert len({noise_seed(s, call) for s in (a, b) for call in range(50)}) == 100


def test_the_environment_gets_its_own_options_only() -> None:
    def scenarios(split: str, count: int, seed: int, tasks: str = "") -> list[Scenario]:
        return fake_world.scenarios(split, count, seed)

    world = replace(fake_world.WORLD, scenarios=scenarios)
    assert interface.make_environment(world, tasks="left", broken_seed=7).broken_seed == 7
    with pytest.raises(ValueError, match=r"no option 'task'\. Did you mean 'tasks'"):
        interface.make_environment(world, task="left")


HOW: list[dict[str, Any]] = [{}, {"resume": True}, {"overwrite": True}, {"overwrite": True, "break_lock": True}]
SECOND = f"""
import sys
from pathlib import Path
from tests.evaluation.test_rollout import CLEAN, Listener
from visuomotor.evaluation.rollout import evaluate
from visuomotor.locks import FolderInUse
from visuomotor.simulation import interface
interface.WORLDS['fake'] = 'tests.evaluation.fake_world'
refused = 0
for how in {HOW!r}:
    try:
        evaluate(Listener(), CLEAN, Path(sys.argv[1]), workers=1, videos=0, **how)
    except FolderInUse as error:
        refused += 1
        print(error)
sys.exit(refused)
"""


def test_a_second_evaluation_is_refused_and_the_first_is_whole(tmp_path: Path) -> None:
    out, answers = tmp_path / "eval", []

    def meanwhile(state: Progress) -> None:
        if state.done == 1:
            command = [sys.executable, "-c", SECOND, str(out)]
            answers.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True))

    evaluate(Listener(), CLEAN, out, workers=1, videos=0, progress=meanwhile)
    (answer,) = answers
    assert answer.returncode == len(HOW), answer.stderr
    assert answer.stdout.count(f"{out} is in use by process {os.getpid()} on host ") == len(HOW)
    assert len(read_records(out / RECORDS_FILE)) == CLEAN.episodes
    assert not list(tmp_path.rglob("*.lock"))
    leave_foreign_lock(out / ".lock")
    before = snapshot(out)
    for how in HOW[:3]:
        with pytest.raises(FolderInUse, match="host elsewhere"):
            evaluate(Listener(), CLEAN, out, workers=1, videos=0, **how)
    assert snapshot(out) == before
    assert evaluate(Listener(), CLEAN, out, workers=1, videos=0, resume=True, break_lock=True) == Results.load(out)

"""evaluate() with other executors, injected latency and the safety filter."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from visuomotor_client.chunking import ChunkRequest
from visuomotor_client.executors import EXECUTORS

from tests.evaluation import fake_world
from visuomotor.cli.evaluate import Options
from visuomotor.contract import ActionChunk, EvalPlan, Observation
from visuomotor.evaluation.results import RECORDS_FILE, EpisodeRecord, read_records
from visuomotor.evaluation.rollout import evaluate
from visuomotor.evaluation.smoothness import jerks
from visuomotor.session import Session

PLAN = EvalPlan(environment="fake", episodes=4, control_episodes=0, max_steps=24, execute=4)


class Steady:
    """Goes 0.1 at a time where the words say, and remembers what it was told."""

    embodiment = fake_world.EMBODIMENT
    guidance = ("guided", "identity", "prefix")

    def __init__(self, size: float = 0.1) -> None:
        self.size = size
        self.times: list[float] = []
        self.requests: list[ChunkRequest | None] = []

    def infer(
        self, observations: list[Observation], sessions: list[Session], seeds: list[int], **told: Any
    ) -> list[ActionChunk]:
        self.times += [o.time for o in observations]
        self.requests += told.get("requests", [None] * len(observations))
        sides = [-1 if "left" in o.instruction else 1 for o in observations]
        return [
            ActionChunk(actions=np.full((8, 1), side * self.size, np.float32), embodiment=self.embodiment, time=o.time)
            for side, o in zip(sides, observations, strict=True)
        ]


def roll_out(out: Path, policy: Steady | None = None, **fields: Any) -> list[EpisodeRecord]:
    evaluate(policy or Steady(), replace(PLAN, **fields), out, workers=1, videos=0)
    return read_records(out / RECORDS_FILE)


def test_latency_stalls_a_robot_that_waits_and_not_one_that_goes_on(tmp_path: Path) -> None:
    prompt = roll_out(tmp_path / "prompt")
    waiting = roll_out(tmp_path / "waiting", latency=0.2, max_steps=40)
    going = roll_out(tmp_path / "going", latency=0.2, executor="asynchronous")
    for a, b, c in zip(prompt, waiting, going, strict=True):
        assert (a.stalls, c.stalls) == (0, 2)
        looks = len(b.latency)
        assert b.stalls == 2 * looks
        assert c.steps == a.steps + 2  # once, in front of the first chunk
        assert b.steps == a.steps + b.stalls
        assert a.success
        assert c.success


@pytest.mark.parametrize("executor", list(EXECUTORS))
def test_every_executor_arrives(tmp_path: Path, executor: str) -> None:
    policy = Steady()
    records = roll_out(tmp_path, policy, executor=executor, latency=0.2, episodes=2, max_steps=40)
    assert all(r.success for r in records if "ensemble" not in executor or "asynchronous" in executor)
    told = [request for request in policy.requests if request is not None]
    assert bool(told) == executor.startswith("rtc")
    for request in told:
        assert request.delay == 2
        assert request.previous.shape == (4, 1)
    assert policy.times[0] == 0


def test_what_the_filter_changes_is_counted_and_shown(tmp_path: Path) -> None:
    results = evaluate(Steady(0.5), PLAN, tmp_path / "clamp", workers=1, videos=0)
    motion = results["train"].motion
    assert motion is not None
    assert motion.interventions == {"limit": motion.commands}
    assert motion.intervened == motion.commands > 0
    assert results["train"].rate.value == 1
    columns, rows = results.table()
    assert rows[0][columns.index("safety")] == str(motion.intervened)
    shadow = evaluate(Steady(0.5), replace(PLAN, safety="shadow"), tmp_path / "shadow", workers=1, videos=0)
    assert shadow["train"].motion == replace(motion, jerk=shadow["train"].motion.jerk)
    assert shadow["train"].motion.jerk == motion.jerk == pytest.approx(0, abs=1e-3)
    reject = evaluate(Steady(0.5), replace(PLAN, safety="reject"), tmp_path / "reject", workers=1, videos=0)
    assert reject["train"].rate.value == 0  # it never moved


def test_what_cannot_run_is_refused_before_anything_starts(tmp_path: Path) -> None:
    class Plain(Steady):
        guidance = ()

    with pytest.raises(ValueError, match="needs a policy with 'guided' guidance"):
        roll_out(tmp_path / "a", Plain(), executor="rtc")
    with pytest.raises(ValueError, match="Unknown executor"):
        roll_out(tmp_path / "b", executor="fast")
    with pytest.raises(ValueError, match="latency is -1"):
        roll_out(tmp_path / "c", latency=-1.0)
    assert not list(tmp_path.iterdir())


def test_jerk_is_the_third_difference_of_the_places() -> None:
    steps = np.array([[0.1], [0.1], [0.1], [0.3], [0.3], [0.3], [0.3]], np.float32)
    mean, seam = jerks(steps, [3], fake_world.EMBODIMENT)
    expected = np.abs(np.diff(np.cumsum(steps.astype(float)), 3)) * 1000
    assert mean == pytest.approx(expected.mean())
    assert seam == pytest.approx(expected.max())
    absolute = replace(fake_world.EMBODIMENT.action[0], reference="absolute")
    robot = replace(fake_world.EMBODIMENT, action=(absolute,))
    assert jerks(np.cumsum(steps, 0), [3], robot)[1] == pytest.approx(expected.max(), rel=1e-4)
    assert jerks(steps, [], fake_world.EMBODIMENT)[1] is None
    assert jerks(steps[:3], [1], fake_world.EMBODIMENT) == (None, None)
    other = replace(robot, action=(replace(absolute, kind="other"),))
    assert jerks(steps, [3], other) == (None, None)


def test_the_command_line_knows_every_executor() -> None:
    assert get_args(get_type_hints(Options)["executor"]) == tuple(EXECUTORS)

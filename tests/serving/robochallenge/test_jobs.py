"""The job loop against the mock platform: both generations, every robot, and everything that can go wrong."""

import json
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from visuomotor_client.limits import SafetyLimits

from tests.serving.robochallenge.fakes import HASTY, LIMITS, ROBOTS, SETTINGS, Nudge, poses_of_two_arms
from visuomotor.serving.robochallenge.connection import Connection, PlatformError
from visuomotor.serving.robochallenge.conventions import Convention
from visuomotor.serving.robochallenge.hold import Hold
from visuomotor.serving.robochallenge.jobs import JobLoop, JobReport, JobSettings
from visuomotor.serving.robochallenge.mock import FAULTS, MockPlatform
from visuomotor.serving.robochallenge.platform import Platform

Start = Callable[..., MockPlatform]
ARX5 = Convention(robot="arx5")


@pytest.fixture
def start() -> Iterator[Start]:
    """Mocks that are closed when the test ends."""
    with ExitStack() as mocks:

        def begin(convention: Convention = ARX5, **options: Any) -> MockPlatform:
            given = {"chunks": 2, "speed": 50, "hang": 3.0, "user": "me", **options}
            return mocks.enter_context(MockPlatform(convention, **given))

        yield begin


def loop_of(mock: MockPlatform, policy: Any = None, settings: JobSettings = SETTINGS, **options: Any) -> JobLoop:
    show, limits = options.pop("show", None), options.pop("limits", LIMITS)
    policy = policy or Nudge(ROBOTS[mock.convention.robot])
    platform = Platform(Connection(mock.address, "me", limits=limits, show=show), mock.convention.generation)
    return JobLoop(platform, policy, mock.convention, settings, **options)


def only(reports: list[JobReport]) -> JobReport:
    (report,) = reports
    return report


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("robot", ROBOTS)
def test_a_job_from_ready_to_finished(start: Start, robot: str, generation: int) -> None:
    convention = Convention(robot=robot, generation=generation)
    mock = start(convention, clock=100.0, prompt="pull", task="unknown")
    embodiment = poses_of_two_arms() if (robot, generation) == ("aloha", 2) else ROBOTS[robot]
    policy = Nudge(embodiment)
    settings = SETTINGS if generation == 1 else replace(SETTINGS, prompt=None)
    report = only(loop_of(mock, policy, settings).run("7"))
    assert report.outcome == "finished"
    assert report.chunks == report.looks == len(mock.robot.received) == 2
    assert report.failures == 0
    assert abs(np.mean(report.age)) < 1, "the clock's offset is not taken into account"
    assert policy.asked[0].instruction == ("open the drawer" if generation == 1 else "pull")
    assert {name: image.shape for name, image in policy.asked[0].images.items()} == {
        c.name: (32, 48, 3) for c in embodiment.cameras
    }
    assert policy.executed[:2] == [None, 3]
    assert [len(chunk) for chunk in mock.robot.received] == [3] * report.chunks
    first, second = mock.robot.received[:2]
    np.testing.assert_allclose(np.diff(first[:, 0]), 0.01, atol=1e-5)
    np.testing.assert_allclose(second[0, 0], first[-1, 0] + 0.01, atol=1e-5)
    listed = "/job_collections/7" if generation == 1 else "/v2/job_collections/submission/7/runs"
    assert {path for endpoint, path in mock.requests if endpoint == "jobs"} == {listed}
    counts = Counter(endpoint for endpoint, _ in mock.requests)
    assert (counts["clock"], counts["start"], counts["?"]) == (10, 1, 0)


def test_what_is_asked_and_sent_is_as_specified(start: Start) -> None:
    mock = start(Convention(robot="ur5"), width=7)
    loop_of(mock, settings=replace(SETTINGS, duration=0.2, horizon=2)).run("7")
    states = [parse_qs(urlsplit(path).query) for endpoint, path in mock.requests if endpoint == "state"]
    assert states[0] == {
        "width": ["48"], "height": ["32"], "image_type": ["right_hand", "left_hand"], "action_type": ["leftpos"],
    }  # fmt: skip
    sent = [parse_qs(urlsplit(path).query) for endpoint, path in mock.requests if endpoint == "action"]
    assert len({uuid.UUID(query["hash"][0]) for query in sent}) == len(sent) >= 1
    assert all(query["action_type"] == ["leftpos"] for query in sent)
    assert mock.robot.received[0].shape == (2, 7)


def test_a_task_of_table30_says_what_and_how(start: Start) -> None:
    policy = Nudge(ROBOTS["arx5"], horizon=50, step=0.0005)
    mock = start()
    loop_of(mock, policy, replace(SETTINGS, prompt=None, task="open_the_drawer")).run("7")
    assert policy.asked[0].instruction == "open the drawer"
    assert mock.robot.received[0].shape == (50, 7), "25 actions, in twice as many steps"
    assert policy.executed[:2] == [None, 25]
    mock = start()
    loop_of(mock, policy, replace(SETTINGS, task="open_the_drawer", plain=True)).run("7")
    assert mock.robot.received[0].shape == (50, 7)
    np.testing.assert_allclose(np.diff(mock.robot.received[0][:, 0]), 0.0005, atol=1e-6)
    mock = start()
    report = only(loop_of(mock, policy, replace(SETTINGS, task="set_the_plates")).run("7"))
    assert "is for ur5, but the policy drives arx5" in report.outcome
    assert not mock.robot.received


def test_limits_of_joints_are_not_those_of_poses(start: Start) -> None:
    mock = start(Convention(robot="aloha", generation=2))
    settings = replace(SETTINGS, task="put_pen_into_pencil_case")
    assert only(loop_of(mock, Nudge(poses_of_two_arms()), settings).run("7")).outcome == "finished"


def test_a_held_robot_does_not_move(start: Start) -> None:
    mock = start(Convention(robot="franka"))
    before = mock.robot.numbers
    report = only(loop_of(mock, Hold(embodiment=ROBOTS["franka"])).run("7"))
    assert report.chunks >= 1
    np.testing.assert_allclose(mock.robot.numbers, before, atol=1e-6)


ONCE = [(endpoint, fault) for endpoint, faults in FAULTS.items() for fault in faults]


@pytest.mark.parametrize(("endpoint", "fault"), ONCE)
def test_every_single_fault_is_survived(
    start: Start, endpoint: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the hostile pickle would leave its trace
    mock = start()
    mock.fail(endpoint, fault)
    report = only(loop_of(mock, limits=HASTY if fault == "timeout" else LIMITS).run("7"))
    gives_up = (endpoint, fault) in {("start", "html"), ("start", "refused"), ("clock", "refused"), ("clock", "html")}
    if gives_up:  # nothing is driven by a clock or a start that cannot be understood
        assert report.outcome.startswith("given up: ")
        return
    assert report.outcome == "finished"
    assert len(mock.robot.received) == 2
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(("endpoint", "fault"), [c for c in ONCE if c[1] not in ("timeout", "fault")])
def test_nothing_is_tried_for_ever(start: Start, endpoint: str, fault: str) -> None:
    mock = start()
    mock.fail(endpoint, fault, times=1000)
    if endpoint == "jobs":
        with pytest.raises(PlatformError, match=r"jobs|no answer|JSON"):
            loop_of(mock).run("7")
    else:
        report = only(loop_of(mock).run("7"))
        assert report.outcome.startswith("given up: ")
        assert report.chunks == 0
    counts = Counter(name for name, _ in mock.requests)
    assert counts[endpoint] <= LIMITS.attempts * SETTINGS.failures + 1


def test_a_policy_whose_server_is_gone_is_given_up(start: Start) -> None:
    def lost(actions: np.ndarray) -> np.ndarray:
        raise ConnectionError("nobody answers")

    mock = start()
    report = only(loop_of(mock, Nudge(ROBOTS["arx5"], spoil=lost)).run("7"))
    assert report.outcome == "given up: 3 failures in a row, the last: nobody answers"


def test_a_state_that_fails_does_not_undo_what_was_executed(start: Start) -> None:
    mock = start(chunks=3)
    policy = Nudge(ROBOTS["arx5"])

    def spoil(report: JobReport) -> None:
        if (report.chunks, report.failures) == (1, 0) and not mock._faults["state"]:
            mock.fail("state", "picture")

    report = only(loop_of(mock, policy, watch=spoil).run("7"))
    assert (report.outcome, report.failures > 0) == ("finished", True)
    assert policy.executed[:2] == [None, 3]


def test_a_robot_at_fault_is_waited_for_until_the_time_is_up(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    mock = start()
    mock.fail("state", "fault", times=1000)
    with caplog.at_level(logging.WARNING):
        report = only(loop_of(mock, settings=replace(SETTINGS, seconds=0.3)).run("7"))
    assert report.outcome == "left after 0.3 s"
    assert (report.chunks, report.failures) == (0, 0)
    assert sum("the robot is fault" in record.message for record in caplog.records) == 1


def test_a_chunk_without_an_answer_is_not_sent_again(start: Start) -> None:
    mock = start()
    mock.fail("action", "timeout")
    policy = Nudge(ROBOTS["arx5"])
    report = only(loop_of(mock, policy, limits=HASTY).run("7"))
    sent = [parse_qs(urlsplit(path).query)["hash"][0] for name, path in mock.requests if name == "action"]
    assert len(sent) == len(set(sent))
    assert report.failures >= 1
    assert policy.executed[:2] == [None, 0], "the policy must not believe that its chunk was executed"


def test_pending_actions_are_waited_for(start: Start) -> None:
    mock = start(speed=1.0)
    report = only(loop_of(mock, settings=replace(SETTINGS, duration=0.2)).run("7"))
    assert report.outcome == "finished"
    assert report.waits >= 2
    assert report.looks == report.chunks == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, 50.0])
def test_no_bad_chunk_moves_the_robot(start: Start, bad: float) -> None:
    mock = start()
    before = mock.robot.numbers
    policy = Nudge(ROBOTS["arx5"], spoil=lambda actions: np.where(np.arange(7) == 2, bad, actions))
    report = only(loop_of(mock, policy).run("7"))
    assert report.outcome.startswith("given up: 3 failures in a row")
    assert ("too large" if bad == 50 else "non-finite") in report.outcome
    assert not mock.robot.received
    np.testing.assert_array_equal(mock.robot.numbers, before)


def test_the_safety_filter_shortens_what_is_too_far(start: Start) -> None:
    mock = start()
    before = mock.robot.numbers
    settings = replace(SETTINGS, limits=SafetyLimits(step_length=0.02))
    report = only(loop_of(mock, Nudge(ROBOTS["arx5"], step=0.09), settings).run("7"))
    assert report.outcome == "finished"
    assert report.interventions == 6
    steps = np.diff(np.vstack([before, *mock.robot.received])[:, 0])
    np.testing.assert_allclose(steps, 0.02, atol=1e-5)


def test_joints_keep_to_their_speed_at_the_rate_they_are_sent_with(start: Start) -> None:
    mock = start(Convention(robot="aloha"))
    settings = replace(SETTINGS, limits=SafetyLimits(velocity=0.5), duration=0.2)
    before = mock.robot.numbers
    only(loop_of(mock, Nudge(ROBOTS["aloha"], step=0.3), settings).run("7"))
    steps = np.diff(np.vstack([before, *mock.robot.received])[:, 0])
    np.testing.assert_allclose(steps, 0.5 * 0.2, atol=1e-5)


def test_a_dry_run_sends_nothing(start: Start) -> None:
    mock, shown = start(), []
    mock.fail("state", "pickle", times=2)
    report = only(loop_of(mock, show=lambda request, contents: shown.append((request, contents))).run("7"))
    assert report.outcome == "shown"
    assert mock.jobs["1"].status == "ready"
    assert not {"start", "action"} & {name for name, _ in mock.requests}
    (begin, started), (action, sent) = shown
    assert (begin, started) == ("/jobs/update", {"job_id": "1", "action": "start"})
    assert action.startswith("/robots/mock-robot/direct/action?hash=")
    assert np.shape(json.loads(json.dumps(sent))["actions"]) == (3, 7)
    assert sent["duration"] == pytest.approx(0.1)


def test_several_jobs_and_one_that_is_cancelled(start: Start) -> None:
    mock = start(jobs=3, prepare=0.1)
    mock.jobs["2"].ended = "cancelled"
    reports = loop_of(mock).run("7")
    assert {report.job: report.outcome for report in reports} == {"1": "finished", "3": "finished"}


def test_a_running_job_is_taken_up_again(start: Start) -> None:
    mock = start()
    assert mock.jobs["1"].start() is None
    assert only(loop_of(mock).run("7")).chunks >= 1
    assert "start" not in {name for name, _ in mock.requests}


def test_a_job_for_another_robot_or_without_words_is_left(start: Start) -> None:
    mock = start(Convention(robot="arx5", generation=2))
    mock.convention = Convention(robot="franka", generation=2)  # what its list of runs says
    platform = Platform(Connection(mock.address, "me", limits=LIMITS), 2)
    loop = JobLoop(platform, Nudge(ROBOTS["arx5"]), Convention(robot="arx5", generation=2), SETTINGS)
    assert "is for franka, but the policy drives arx5" in only(loop.run("7")).outcome
    mock = start()
    assert (
        "Nothing says what job 1 asks for"
        in only(loop_of(mock, settings=replace(SETTINGS, prompt=None)).run("7")).outcome
    )


def test_the_wait_for_jobs_ends(start: Start) -> None:
    mock = start(prepare=60)
    assert loop_of(mock, settings=replace(SETTINGS, patience=0.1)).run("7") == []


def test_contradictions_are_refused(start: Start) -> None:
    with pytest.raises(ValueError, match="Table30 has no task 'open_drawer'"):
        loop_of(start(), settings=replace(SETTINGS, task="open_drawer"))
    with pytest.raises(ValueError, match="failures is 0"):
        JobSettings(failures=0)
    with pytest.raises(ValueError, match="seconds is nan"):
        JobSettings(seconds=float("nan"))
    with pytest.raises(ValueError, match="generation 1, the platform's interface of 2"):
        JobLoop(Platform(Connection("http://127.0.0.1:1", "me"), 2), Nudge(ROBOTS["arx5"]), ARX5)

"""The loop behind the page, in a world that costs nothing."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from tests.evaluation.fake_world import EMBODIMENT, PointEnvironment, scenarios
from visuomotor.apps.live.play import Play, PlaySettings
from visuomotor.contract import ActionChunk, Observation
from visuomotor.session import Session

FAST = PlaySettings(execute=2, preview=0.0, speed=20)


class Right:
    """Goes to the right by `step`, and says so."""

    embodiment = EMBODIMENT

    def __init__(self, step: float = 0.01) -> None:
        self.step, self.asked = step, list[Observation]()
        self.gate = threading.Event()
        self.gate.set()

    def infer(
        self, observations: Sequence[Observation], sessions: Sequence[Session | None] | None = None
    ) -> list[ActionChunk]:
        self.asked += observations
        assert self.gate.wait(20)
        actions = np.full((4, 1), self.step, np.float32)
        return [ActionChunk(actions=actions, embodiment=EMBODIMENT, text={"subtask": "go on"}) for _ in observations]


class Stage:
    """A Play in a thread of its own, and its last frame."""

    def __init__(self, policy: Right, settings: PlaySettings) -> None:
        self.frames: list[dict[str, Any]] = []
        self.environment, self.policy = PointEnvironment(), policy
        self.play = Play(
            self.environment, policy, lambda n: scenarios("train", n + 1, 5)[n], self.frames.append, settings
        )
        self.thread = threading.Thread(target=self.play.run)
        self.thread.start()

    def do(self, what: str, **given: Any) -> None:
        self.play.command({"do": what, **given})

    def until(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if self.frames and true(self.frames[-1]):
                return self.frames[-1]
            time.sleep(0.005)
        raise AssertionError(f"never came; last: {self.frames[-1:]}")


@pytest.fixture
def begin() -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def start(policy: Right | None = None, settings: PlaySettings = FAST) -> Stage:
        stages.append(Stage(policy or Right(), settings))
        stages[-1].until(lambda frame: True)
        return stages[-1]

    yield start
    for stage in stages:
        stage.policy.gate.set()
        stage.play.close()
        stage.thread.join(20)
        assert not stage.thread.is_alive()


def test_nothing_moves_without_an_instruction(begin: Callable[..., Stage]) -> None:
    stage = begin()
    first = stage.frames[-1]
    assert (first["status"], first["chunk"], first["step"]) == ("waiting", None, 0)
    assert first["instruction"] == "go to the left"
    assert set(first["images"]) == {"top", "hand"}
    stage.do("instruct", text="  ")
    assert stage.until(lambda f: f["message"] != "")["message"] == "Write what the robot should do."
    assert stage.environment.steps == 0


def test_an_instruction_is_obeyed_and_what_is_predicted_is_shown_first(begin: Callable[..., Stage]) -> None:
    stage = begin()
    before = float(stage.environment.x)
    stage.do("instruct", text=" go \n right ")
    last = stage.until(lambda f: f["step"] >= 6)
    assert stage.policy.asked[0].instruction == "go right"
    previews = [f for f in stage.frames if f["status"] == "about to move"]
    assert [f["step"] for f in previews] == [0], "once: the sub-task stays the same"
    assert previews[0]["chunk"]["text"] == {"subtask": "go on"}
    assert float(stage.environment.x) == pytest.approx(before + 0.01 * stage.environment.steps, abs=1e-4)
    assert last["latency"]["last"] >= 0
    assert last["interventions"] == 0
    assert 2 <= len(stage.policy.asked) <= stage.environment.steps / 2 + 1


def test_a_stop_latches_until_it_is_released(begin: Callable[..., Stage]) -> None:
    stage = begin()
    stage.do("instruct", text="right")
    stage.until(lambda f: f["step"] >= 3)
    stage.do("stop")
    steps = stage.environment.steps
    assert stage.until(lambda f: f["stopped"])["status"] == "stopped"
    for _ in range(3):
        stage.do("instruct", text="left")
        stage.do("pause")
        stage.do("scene")
    time.sleep(0.2)
    assert stage.frames[-1]["stopped"]
    assert stage.frames[-1]["status"] == "stopped"
    assert stage.environment.steps in (0, steps, steps + 1), "a step that had begun may end; a new scene has none"
    assert any("release it first" in f["message"] for f in stage.frames)
    stage.do("release")
    assert stage.until(lambda f: not f["stopped"])["status"] == "waiting"
    time.sleep(0.1)
    assert stage.environment.steps == 0, "released is not moving: that takes an instruction"
    stage.do("instruct", text="right")
    stage.until(lambda f: f["step"] >= 2)


def test_a_stop_while_the_policy_thinks_lets_nothing_out(begin: Callable[..., Stage]) -> None:
    policy = Right()
    policy.gate.clear()
    stage = begin(policy)
    stage.do("instruct", text="right")
    while not policy.asked:
        time.sleep(0.005)
    stage.do("stop")
    policy.gate.set()
    stage.until(lambda f: f["status"] == "stopped")
    assert stage.environment.steps == 0


def test_commands_beyond_the_limits_are_clamped_and_counted(begin: Callable[..., Stage]) -> None:
    stage = begin(Right(step=5.0))
    before = float(stage.environment.x)
    stage.do("instruct", text="right")
    last = stage.until(lambda f: f["step"] >= 4)
    assert last["interventions"] >= 4
    assert last["reasons"]["limit"] >= 4
    assert float(stage.environment.x) <= before + 0.2 * stage.environment.steps + 1e-5


def test_a_policy_that_fails_stands_still_and_says_why(begin: Callable[..., Stage]) -> None:
    stage = begin(Right(step=float("nan")))
    stage.do("instruct", text="right")
    assert "non-finite" in stage.until(lambda f: "failed" in f["message"])["message"]
    assert (stage.environment.steps, stage.frames[-1]["status"]) == (0, "waiting")


def test_pause_and_scenes(begin: Callable[..., Stage]) -> None:
    stage = begin()
    stage.do("instruct", text="right")
    stage.until(lambda f: f["step"] >= 2)
    stage.do("pause")
    stage.until(lambda f: f["status"] == "waiting")
    steps = stage.environment.steps
    time.sleep(0.1)
    assert stage.environment.steps == steps
    stage.do("scene")
    assert stage.until(lambda f: f["scene"] == 1)["instruction"] == "go to the right"
    stage.do("move", camera="top", start=[1, 2], end=[3, 4])
    assert "Nothing can be moved by hand in fake" in stage.until(lambda f: f["message"] != "")["message"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"do": "dance"}, "Unknown command 'dance'"), ({}, "Unknown command None"), ({"do": ["stop"]}, "Unknown"),
        ({"do": "instruct", "text": 3}, "An instruction is text"), ({"do": "move", "start": [1, 2]}, "start and end"),
        ({"do": "move", "start": [1, 2], "end": [1, float("nan")]}, "start and end"),
        ({"do": "move", "start": [1, 2], "end": [True, 5000]}, "start and end"),
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused(begin: Callable[..., Stage], given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        begin().play.command(given)


def test_contradictions_are_refused() -> None:
    for given in ({"execute": 0}, {"preview": -1.0}, {"speed": float("nan")}):
        with pytest.raises(ValueError, match="expected at least 1"):
            PlaySettings(**given)

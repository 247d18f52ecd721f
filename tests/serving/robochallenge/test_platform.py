"""Requests that are bounded, states that are checked, and a mock that refuses what a robot would."""

import io
import pickle
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from visuomotor.serving.robochallenge.connection import Connection, Limits, PlatformError, Refused
from visuomotor.serving.robochallenge.conventions import Convention
from visuomotor.serving.robochallenge.mock import MockPlatform
from visuomotor.serving.robochallenge.platform import Job, Platform
from visuomotor.serving.robochallenge.robot import Robot, RobotState

QUICK = Limits(seconds=0.4, attempts=2, pause=0.01, bytes=5000)


class Odd(BaseHTTPRequestHandler):
    """/trickle sends a byte at a time, /large a lot, /moved leads elsewhere, /NUMBER answers with that status, any
    other path with what it says."""

    seen: list[str] = []  # noqa: RUF012

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        Odd.seen.append(self.path)
        what = self.path.strip("/")
        self.send_response(int(what) if what.isdigit() else 302 if what == "moved" else 200)
        if what == "moved":
            self.send_header("location", "/true")
        self.end_headers()
        try:
            for _ in range(50 if what == "trickle" else 1):
                self.wfile.write(
                    b"1" * (10_000 if what == "large" else 1) if what in ("trickle", "large") else what.encode()
                )
                if what == "trickle":
                    time.sleep(0.05)
        except OSError:
            pass  # the client has had enough


@pytest.fixture(scope="module")
def odd() -> Iterator[Connection]:
    server = HTTPServer(("127.0.0.1", 0), Odd)
    Thread(target=server.serve_forever, daemon=True).start()
    yield Connection(f"http://127.0.0.1:{server.server_address[1]}", "me", limits=QUICK)
    server.shutdown()


@pytest.mark.parametrize(
    ("path", "said", "kind", "times"),
    [
        ("/trickle", "took longer than 0.4 s", PlatformError, 2),
        ("/large", "larger than 5000 bytes", Refused, 1),
        ("/moved", "refused with status 302", Refused, 1),
        ("/401", "does not accept this user token", Refused, 1),
        ("/404", "refused with status 404", Refused, 1),
        ("/503", "no answer in 2 attempts: status 503", PlatformError, 2),
        ("/no-json", "expected JSON, the platform sent no-json", PlatformError, 1),
        ("/true", "expected an object, the platform sent True", PlatformError, 1),
    ],
)
def test_answers_that_are_none(odd: Connection, path: str, said: str, kind: type[Exception], times: int) -> None:
    Odd.seen.clear()
    began = time.monotonic()
    with pytest.raises(kind, match=said):
        odd.get_mapping(path)
    assert Odd.seen == [path] * times
    assert time.monotonic() - began < 8


def test_nobody_there_and_an_address_that_is_none() -> None:
    with pytest.raises(PlatformError, match="no answer in 2 attempts"):
        Connection("http://127.0.0.1:1", "me", limits=QUICK).get("/jobs/1")
    with pytest.raises(ValueError, match="expected http"):
        Connection("ftp://here", "me")
    with pytest.raises(ValueError, match="at least one attempt"):
        Limits(attempts=0)


@pytest.mark.parametrize("result", [True, 0, "success", "OK", None])
def test_the_ways_to_say_yes_and_no(result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {} if result is None else {"result": result}
    connection = Connection("http://127.0.0.1:1", "me")

    def send(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=answers)

    monkeypatch.setattr(connection, "_http", httpx2.Client(base_url="http://x", transport=httpx2.MockTransport(send)))
    connection.post("/jobs/update", {})
    for no in (False, 1, "error", "not ok", {"a": 1}):
        answers = {"result": no, "message": "arm in the way"}
        with pytest.raises(Refused, match="refused it: arm in the way"):
            connection.post("/jobs/update", {})


def png(width: int = 4, height: int = 3, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


WHOLE = {
    "state": "normal",
    "timestamp": 1.0,
    "pending_actions": 0,
    "action": [0.1, np.float32(2)],
    "images": {"a": png()},
}


def test_a_state_is_read() -> None:
    state = RobotState.parse(WHOLE)
    assert state.ready
    assert state.action == (0.1, 2.0)
    assert state.picture("a").shape == (3, 4, 3)
    assert RobotState.parse({**WHOLE, "images": {"a": png(mode="RGBA")}}).picture("a").shape == (3, 4, 3)
    assert not RobotState.parse({**WHOLE, "pending_actions": 3}).ready
    assert RobotState.parse({"state": "size_none"}) == RobotState(state="size_none")


@pytest.mark.parametrize(
    "change",
    [
        {"state": 3}, {"timestamp": None}, {"timestamp": float("nan")}, {"pending_actions": "0"}, {"action": "0.1"},
        {"action": [True]}, {"action": [10**400]}, {"action": None}, {"images": [png()]}, {"images": {"a": "text"}},
        {"pending_actions": 10**400},
    ],
)  # fmt: skip
def test_states_with_wrong_fields_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PlatformError, match="Expected"):
        RobotState.parse({**WHOLE, **change})
    with pytest.raises(PlatformError, match="Expected a dictionary"):
        RobotState.parse([WHOLE])


@pytest.mark.parametrize("data", [b"", b"GIF89a", png()[:40], png(5000, 5000)])
def test_pictures_that_are_none(data: bytes) -> None:
    state = RobotState.parse({**WHOLE, "images": {"a": data}})
    with pytest.raises(PlatformError, match=r"not a whole PNG|refused"):
        state.picture("a")
    with pytest.raises(PlatformError, match="no picture of 'b'; it sent a"):
        state.picture("b")


def test_jobs_need_a_name_and_a_status() -> None:
    assert Job.parse({"run_id": 3, "status": "ready", "robotTag": "arx5", "prompt": ""}) == Job(
        id="3", status="ready", robot="arx5"
    )
    for entry in ({"job_id": 3}, {"status": "ready"}, {"job_id": [1], "status": "ready"}):
        with pytest.raises(PlatformError, match="Expected a job"):
            Job.parse(entry)


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        ([[float("nan")] * 8], "Out of range|NaN"), ([[0.0] * 7], "got shape"),
        ([[0.3, 0, 0.2, 0, 0, 0, 2, 0.05]], "unit"),
        ([[0.9, 0, 0.2, 0, 0, 0, 1, 0.05]], "step of 0.6"), ([], "got shape"),
        ([["a"] * 8], "lists of numbers"),
        ([[0.3 + 0.09 * i, 0, 0.2, 0, 0, 0, 1, 0.05] for i in range(15)], "reach"),
    ],
)  # fmt: skip
def test_the_mock_refuses_what_a_robot_would(actions: Any, said: str) -> None:
    with MockPlatform(Convention(robot="franka"), user="me") as mock:
        connection = Connection(mock.address, "me", limits=QUICK)
        Platform(connection).start("1")
        path = "/robots/mock-robot/direct/action"
        with pytest.raises((Refused, ValueError), match=said):
            connection.post(path, {"actions": actions, "duration": 0.1}, hash="x", action_type="leftpos")
        with pytest.raises(Refused, match="action_type must be 'leftpos' throughout"):
            connection.post(path, {"actions": [[0.0] * 8], "duration": 0.1}, hash="x", action_type="joint")
        assert not mock.robot.received


def test_the_mock_knows_its_users_and_a_chunk_that_came_twice() -> None:
    with MockPlatform(Convention(robot="ur5"), user="me", width=8) as mock:
        with pytest.raises(Refused, match="user token"):
            Platform(Connection(mock.address, "you", limits=QUICK)).jobs("7")
        with pytest.raises(ValueError, match="no fault 'pickle' at 'jobs'"):
            mock.fail("jobs", "pickle")
        connection = Connection(mock.address, "me")
        Platform(connection).start("1")
        Platform(connection).start("1")  # as after an answer that got lost
        for _ in range(2):
            contents = {"actions": [mock.robot.numbers.tolist()], "duration": 0.1}
            connection.post("/robots/mock-robot/direct/action", contents, hash="x", action_type="leftpos")
        assert len(mock.robot.received) == 1
        robot = Robot(connection, "mock-robot", "leftpos")
        assert robot.state([], 10, 10).state == "size_none"
        assert robot.state(["elsewhere"], 100, 100).state == "abnormal"
        with pytest.raises(Refused, match="404"):
            Robot(connection, "../robots/mock-robot", "leftpos").state([], 100, 100)


def test_a_hostile_state_is_refused_by_name() -> None:
    def send(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=pickle.dumps({"state": print}))

    connection = Connection("http://127.0.0.1:1", "me")
    connection._http = httpx2.Client(base_url="http://x", transport=httpx2.MockTransport(send))
    with pytest.raises(PlatformError, match=r"asks for builtins.print, which is refused"):
        Robot(connection, "r", "joint").state(["high"], 64, 64)

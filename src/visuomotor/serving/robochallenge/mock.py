"""A mock of the platform on this computer, for tests and rehearsal: both generations, and faults on demand.

    with MockPlatform(Convention(robot="arx5"), user="me") as mock:
        mock.fail("state", "drop", times=2)     # the next two states: connection dropped
        ...                                     # a client at mock.address

Faults, for the endpoints jobs, job, start, clock, state and action: "timeout" (no answer for `hang` seconds), "500",
"drop" (connection closed), "html" (a page instead of an answer), "refused" (an application error); for states also
"fault" (the robot reports one), "pickle" (a pickle that runs code), "damaged" (half a pickle), "picture" (half a PNG).
"""

import json
import os
import pickle
import re
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from visuomotor.serving.robochallenge.conventions import Convention
from visuomotor.serving.robochallenge.mock_robot import MockRobot
from visuomotor.serving.robochallenge.tasks import TASKS

__all__ = ["FAULTS", "MockPlatform"]

ENDPOINTS = ("jobs", "job", "start", "clock", "state", "action")
ANYWHERE = ("timeout", "500", "drop", "html", "refused")
FAULTS = {
    name: (*ANYWHERE, "fault", "pickle", "damaged", "picture") if name == "state" else ANYWHERE for name in ENDPOINTS
}
ROBOT_ID = "mock-robot"
LARGEST = 16 * 2**20


@dataclass
class MockJob:
    """A job that walks through its states: assigned, prepare and ready by itself, then running, then finished: after
    `seconds`, or as soon as `chunks` have been executed."""

    id: str
    prepared: float  # seconds after which it is ready
    seconds: float
    chunks: int | None = None
    executed: int = 0
    born: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: str | None = None

    @property
    def status(self) -> str:
        if self.ended is not None:
            return self.ended
        if self.started is not None:
            over = time.monotonic() - self.started >= self.seconds or self.executed == self.chunks
            return "finished" if over else "running"
        age = time.monotonic() - self.born
        return "ready" if age >= self.prepared else "prepare" if age >= self.prepared / 2 else "assigned"

    def start(self) -> str | None:
        """Begin to run; why not, where that is impossible."""
        if self.status != "ready":
            return f"job {self.id} is {self.status}, not ready"
        self.started = time.monotonic()
        return None


class MockPlatform:
    """The platform with one robot, as a context manager that serves on loopback.

    jobs: how many; prepare: seconds until one is ready; seconds, chunks: after which a started one is finished;
    task, prompt: of its jobs in generation 2, by default one of Table30's for this robot; width, speed: see MockRobot;
    clock: seconds by which its clock is ahead; hang: seconds of a timeout.

    Raises:
        OSError: the port is taken.
    """

    def __init__(
        self,
        convention: Convention,
        *,
        user: str,
        jobs: int = 1,
        seconds: float = 60.0,
        chunks: int | None = None,
        prepare: float = 0.0,
        width: int | None = None,
        speed: float = 1.0,
        clock: float = 0.0,
        hang: float = 30.0,
        task: str | None = None,
        prompt: str | None = None,
        port: int = 0,
    ) -> None:
        self.convention, self.user, self.clock, self.hang = convention, user, clock, hang
        usual = next(t for t in TASKS.values() if t.robot == convention.robot)
        self.task, self.prompt = task or usual.name, prompt or usual.prompt
        self.robot = MockRobot(convention, width=width, speed=speed)
        self.jobs = {str(n): MockJob(str(n), prepare, seconds, chunks) for n in range(1, jobs + 1)}
        self.requests: list[tuple[str, str]] = []
        self._faults: dict[str, deque[str]] = defaultdict(deque)
        self._lock, self._closing = threading.RLock(), threading.Event()
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        except OSError as error:
            why = error.strerror or error
            raise OSError(f"Port {port} of 127.0.0.1: {why}; choose another one, or 0 for any free one.") from error
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, endpoint: str, fault: str, times: int = 1) -> None:
        """Let the next `times` requests to an endpoint go wrong."""
        if fault not in FAULTS.get(endpoint, ()):
            known = ", ".join(f"{name} ({', '.join(FAULTS[name])})" for name in ENDPOINTS)
            raise ValueError(f"There is no fault {fault!r} at {endpoint!r}; known: {known}.")
        self._faults[endpoint].extend([fault] * times)

    def serve(self) -> None:
        """Serve until closed."""
        self._server.serve_forever(poll_interval=0.02)

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "MockPlatform":
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answer(self, endpoint: str, path: str, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        """Status and contents; bytes are sent as they are, anything else as JSON."""
        if endpoint == "jobs":
            return 200, self._listed(path.startswith("/v2/"))
        if endpoint in ("job", "start"):
            job = self.jobs.get(str(body.get("job_id")) if endpoint == "start" else path.rsplit("/", 1)[1])
            if job is None:
                return 404, {"result": "error", "message": "no such job"}
            if endpoint == "job":
                return 200, {"job_id": job.id, "status": job.status, "device": {"robot_id": ROBOT_ID}}
            return self._said(job.start() if body.get("action") == "start" else "the only action is start")
        if f"/robots/{ROBOT_ID}/" not in path:
            return 404, {"result": "error", "message": "no such robot"}
        if endpoint == "clock":
            return 200, {"timestamp": time.time() + self.clock}
        if endpoint == "state":
            return 200, pickle.dumps(self._state(query))
        return self._act(query, body)

    def next_fault(self, endpoint: str) -> str | None:
        with self._lock:
            return self._faults[endpoint].popleft() if self._faults[endpoint] else None

    def broken(self, fault: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        """The answer of a fault; drops and timeouts have none."""
        if fault == "refused":
            return 200, {"result": "error", "message": "refused on demand"}
        if fault in ("500", "html"):
            return (500 if fault == "500" else 200), b"<html>not what you asked for</html>"
        if fault == "pickle":
            return 200, pickle.dumps({"state": "normal", "action": _RunsCode()})
        state = self._state(query)
        if fault == "fault":
            state = {**state, "state": "fault"}
        if fault == "picture":
            state["images"] = {name: png[: len(png) // 2] for name, png in state["images"].items()}
        content = pickle.dumps(state)
        return 200, content[: len(content) // 2] if fault == "damaged" else content

    def _listed(self, second: bool) -> Any:
        if second:
            names = {"prompt": self.prompt, "task_name": self.task, "robotTag": self.convention.robot}
            return [{"run_id": job.id, "status": job.status, **names} for job in self.jobs.values()]
        device = {"robot_id": ROBOT_ID}
        return {"jobs": [{"job_id": job.id, "status": job.status, "device": device} for job in self.jobs.values()]}

    def _state(self, query: dict[str, list[str]]) -> dict[str, Any]:
        names = query.get("image_type", [])
        size = [int(query.get(side, ["0"])[0]) for side in ("width", "height")]
        with self._lock:
            if not all(16 <= side <= 2048 for side in size):
                return {"state": "size_none"}
            if set(names) - set(self.convention.cameras) or query.get("action_type") != [self.convention.type]:
                return {"state": "abnormal"}
            return {**self.robot.state(names, *size), "timestamp": time.time() + self.clock}

    def _act(self, query: dict[str, list[str]], body: Any) -> tuple[int, Any]:
        with self._lock:
            running = [job for job in self.jobs.values() if job.status == "running"]
            if not running:
                return self._said("no job is running")
            name, action_type = (query.get(key, [""])[0] for key in ("hash", "action_type"))
            wrong = self.robot.refusal(body.get("actions"), body.get("duration"), action_type)
            if wrong is None and not name:
                wrong = "a chunk needs a hash"
            if wrong is None and self.robot.execute(body["actions"], float(body["duration"]), name):
                running[0].executed += 1
            return self._said(wrong)

    def _said(self, wrong: str | None) -> tuple[int, Any]:
        return 200, {"result": "error" if wrong else "success", "message": wrong or "success"}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        platform = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                self._answer("GET", None)

            def do_POST(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                try:
                    body = json.loads(self.rfile.read(min(length, LARGEST)), parse_constant=_refuse_constant)
                except ValueError as error:
                    return self._send(400, {"result": "error", "message": str(error)})
                return self._answer("POST", body if isinstance(body, dict) else {})

            def _answer(self, method: str, body: Any) -> None:
                split = urlsplit(self.path)
                endpoint = next(
                    (name for name, (verb, p) in ROUTES.items() if verb == method and p.fullmatch(split.path)), None
                )
                platform.requests.append((endpoint or "?", self.path))
                if self.headers.get("x-user-id") != platform.user:
                    return self._send(401, {"result": "error", "message": "unknown user"})
                if endpoint is None:
                    return self._send(404, {"result": "error", "message": f"nothing at {split.path}"})
                query, fault = parse_qs(split.query), platform.next_fault(endpoint)
                if fault == "timeout":
                    platform._closing.wait(platform.hang)
                if fault in ("timeout", "drop"):
                    self.close_connection = True
                    return self.connection.close()
                given = platform.broken(fault, query) if fault else platform.answer(endpoint, split.path, query, body)
                return self._send(*given)

            def _send(self, status: int, contents: Any) -> None:
                data = contents if isinstance(contents, bytes) else json.dumps(contents).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler


ROUTES = {
    "jobs": ("GET", re.compile(r"/job_collections/[^/]+|/v2/job_collections/submission/[^/]+/runs")),
    "job": ("GET", re.compile(r"/jobs/[^/]+")),
    "start": ("POST", re.compile(r"/jobs/update")),
    "clock": ("GET", re.compile(r"/robots/[^/]+/direct/clock-sync")),
    "state": ("GET", re.compile(r"/robots/[^/]+/direct/state\.pkl")),
    "action": ("POST", re.compile(r"/robots/[^/]+/direct/action")),
}


class _RunsCode:
    """What a hostile pickle looks like; whoever loads it has the folder name."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("visuomotor-mock-was-here",)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")

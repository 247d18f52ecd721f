"""A policy without a network, a server around it, and bare clients of both protocols."""

import asyncio
import queue
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from visuomotor_client import openpi, vla_eval
from visuomotor_client.vla_eval import Message
from websockets.asyncio.client import ClientConnection, connect

from visuomotor.contract import ActionChunk, Observation
from visuomotor.embodiment import Camera, Component, Embodiment
from visuomotor.serving.config import ServeConfig
from visuomotor.serving.server import PolicyServer
from visuomotor.session import Session

HORIZON = 4
ROBOT = Embodiment(
    name="arm",
    control_hz=10.0,
    cameras=tuple(Camera(name=name, role=name, height=8, width=8) for name in ("scene", "wrist")),
    state=(Component(name="joints", dims=("a", "b"), kind="joint", unit="rad"),),
    action=(Component(name="joints", dims=("a", "b"), kind="joint", unit="rad", low=(-900, -900), high=(900, 900)),),
)
ANY = {"openpi_port": 0, "vla_eval_port": 0}


@dataclass
class FakePolicy:
    """Chunks count up from the state; what a chunk says also depends on its seed, and a batch takes `seconds`.

    A brightest pixel of 255 in the first row of the scene breaks it, and so does a batch in which it is.
    """

    seconds: float = 0.0
    horizon: int = HORIZON
    embodiment: Embodiment = ROBOT
    batches: list[int] = field(default_factory=list)
    sessions: list[Session | None] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    open: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.open.set()

    def infer(
        self,
        observations: Sequence[Observation],
        sessions: Sequence[Session | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[ActionChunk]:
        self.batches.append(len(observations))
        self.threads.add(threading.get_ident())
        self.open.wait(10)
        time.sleep(self.seconds)
        if any(o.images["scene"][0].max() == 255 for o in observations):
            raise FloatingPointError("the camera blinds the policy")
        sessions, seeds = sessions or [None] * len(observations), seeds or [0] * len(observations)
        chunks = []
        for observation, session, seed in zip(observations, sessions, seeds, strict=True):
            self.sessions.append(session)
            noise = np.random.default_rng(seed).uniform(0, 0.5)
            steps = np.arange(self.horizon, dtype=np.float32)[:, None] % 100
            actions = (observation.state + steps + noise).astype(np.float32)
            text = {"subtask": f"call {session.calls}"} if session is not None else {}
            chunk = ActionChunk(actions=actions, embodiment=self.embodiment, text=text, extras={"seed": seed})
            if session is not None:
                session.remember(chunk, fresh=True)
            chunks.append(chunk)
        return chunks


def observation(first: float = 0.0, pixel: int = 10, prompt: str = "go") -> dict[str, Any]:
    """As an openpi client sends it."""
    image = np.full((8, 8, 3), pixel, np.uint8)
    return {
        "images": {"scene": image, "wrist": image},
        "state": np.array([first, 0], np.float32),
        "prompt": prompt,
    }


def evaluated(first: float = 0.0, pixel: int = 10, task: str = "go") -> dict[str, Any]:
    """As a vla-eval client sends it."""
    message = observation(first, pixel)
    return {"images": message["images"], "states": message["state"], "task_description": task}


@asynccontextmanager
async def serving(policy: FakePolicy | None = None, **settings: Any) -> AsyncIterator[PolicyServer]:
    keys = settings.pop("keys", None)
    config = ServeConfig(**{**ANY, **settings})
    async with PolicyServer(policy or FakePolicy(), config, keys=keys) as server:
        yield server


class OpenpiClient:
    """Sends frames and reads frames."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    @classmethod
    async def open(cls, server: PolicyServer, **settings: Any) -> "OpenpiClient":
        client = cls(await connect(server.addresses["openpi"], compression=None, max_size=None, **settings))
        frame = await client.connection.recv()
        assert isinstance(frame, bytes)
        client.metadata = openpi.unpack(frame)
        return client

    metadata: dict[str, Any]

    async def ask(self, message: Any) -> Any:
        """The reply as a map, or the text of an error."""
        await self.connection.send(message if isinstance(message, bytes | str) else openpi.pack(message))
        answer = await self.connection.recv()
        return answer if isinstance(answer, str) else openpi.unpack(answer)


class VlaEvalClient:
    """Sends messages with growing numbers and reads messages."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection, self.seq = connection, 0

    @classmethod
    async def open(cls, server: PolicyServer) -> "VlaEvalClient":
        return cls(await connect(server.addresses["vla-eval"], compression=None, max_size=None))

    async def send(self, kind: str, payload: dict[str, Any]) -> int:
        self.seq += 1
        frame = vla_eval.pack(Message(type=kind, payload=payload, seq=self.seq), image_format="png")
        await self.connection.send(frame)
        return self.seq

    async def receive(self) -> Message:
        frame = await self.connection.recv()
        assert isinstance(frame, bytes)
        return vla_eval.unpack(frame)

    async def ask(self, kind: str, payload: dict[str, Any]) -> Message:
        seq = await self.send(kind, payload)
        answer = await self.receive()
        assert answer.seq == seq
        return answer


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself."""
    paths = folder / "c.pem", folder / "k.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", str(paths[0]), "-keyout", str(paths[1])],
        check=True, capture_output=True,
    )  # fmt: skip
    return paths


@contextmanager
def background(policy: FakePolicy | None = None, **settings: Any) -> Iterator[PolicyServer]:
    """A server with an event loop of its own on another thread, for clients that block."""
    found: queue.Queue[tuple[PolicyServer, asyncio.AbstractEventLoop, asyncio.Event]] = queue.Queue()

    async def run() -> None:
        async with serving(policy, **settings) as server:
            stop = asyncio.Event()
            found.put((server, asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    server, loop, stop = found.get(timeout=20)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)

"""openpi's protocol: the server speaks first (metadata), then one answer for each request.

A session is a connection; it forgets what it was told when the instruction changes. An error is a text frame, after
which the connection goes on.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
from visuomotor_client import openpi as wire
from websockets.asyncio.server import ServerConnection

from visuomotor.serving.batching import Answer
from visuomotor.serving.connection import GOING_AWAY, Inbox, send
from visuomotor.serving.observations import ObservationKeys
from visuomotor.serving.service import Service
from visuomotor.session import Session

__all__ = ["handle"]

PROTOCOL = "openpi"


async def handle(connection: ServerConnection, inbox: Inbox, service: Service, keys: ObservationKeys) -> None:
    """Serve one client until it leaves or the server stops."""
    limits = service.config.limits
    await send(connection, wire.pack(metadata(service, keys)), limits)
    robot = _Robot(inbox.client, service, keys)
    previous = None
    async for frame in inbox:
        started = time.perf_counter()
        answer, refusal = await service.attempt(PROTOCOL, robot.answer(frame))
        if answer is None:
            await send(connection, refusal or "", limits)
        else:
            await send(connection, wire.pack(reply(answer, previous)), limits)
        previous = time.perf_counter() - started
        service.metrics.latency.observe(previous, PROTOCOL)
        if service.stopping:
            await connection.close(GOING_AWAY, "the server is stopping")


def metadata(service: Service, keys: ObservationKeys) -> dict[str, Any]:
    """The first frame: what the service says of itself, and under which keys it looks for observations."""
    where = {"cameras": keys.cameras, "state": list(keys.state), "instruction": keys.instruction}
    return {**service.metadata(), "protocol": PROTOCOL, "observation_keys": where}


def reply(answer: Answer, previous: float | None) -> dict[str, Any]:
    """`actions` float32[T, A] is the only array, because clients cut every array at the present step.

    server_timing, in milliseconds: infer_ms, the forward pass; queue_ms, waiting for it; prev_total_ms, the last
    request with its sending, from the second one on. `text`: what the policy reasoned, if it did.
    """
    timing = {"infer_ms": 1e3 * answer.inference, "queue_ms": 1e3 * answer.waited}
    if previous is not None:
        timing["prev_total_ms"] = 1e3 * previous
    message: dict[str, Any] = {
        "actions": np.ascontiguousarray(answer.chunk.actions, dtype=np.float32),
        "server_timing": timing,
    }
    if answer.chunk.text:
        message["text"] = dict(answer.chunk.text)
    return message


class _Robot:
    """What is remembered of the client of one connection."""

    def __init__(self, client: str, service: Service, keys: ObservationKeys) -> None:
        self.client, self.service, self.keys = client, service, keys
        self.session: Session = service.session()
        self.safety = service.safety()
        self.instruction: str | None = None

    async def answer(self, frame: str | bytes) -> Answer:
        """The answer to a frame. ValueError where it is no observation; else what `Service.act` raises."""
        if isinstance(frame, str):
            raise ValueError("Observations are binary frames (msgpack); a text frame came.")
        observation = await self.service.read(self.keys, wire.unpack(frame, images=False))
        if self.service.released(self.safety) or observation.instruction != self.instruction:
            # Another one, and not this one emptied: a request whose time was over may still write into it.
            self.session = self.service.session()
            self.instruction = observation.instruction
        answer = await self.service.act(observation, self.session)
        self.service.tell(self.client, observation, answer)
        actions = await self.service.safe_chunk(self.safety, answer.chunk.actions, observation.state)
        return replace(answer, chunk=replace(answer.chunk, actions=actions))

"""vla-eval's protocol: one action for each observation, so chunks are kept here and given out step by step.

A session is an episode: it begins with EPISODE_START, and a connection has many. In live mode the benchmark does not
wait for actions; where several of its observations have come meanwhile and a new chunk is due, the policy looks at the
newest, and all of them are answered with its first action.
"""

import logging
import time
from typing import Any

import numpy as np
from visuomotor_client import vla_eval as wire
from visuomotor_client.chunking import RecedingHorizon
from visuomotor_client.controller import Controller
from visuomotor_client.vla_eval import MalformedMessage, Message
from websockets.asyncio.server import ServerConnection

import visuomotor
from visuomotor.serving.batching import Answer
from visuomotor.serving.connection import GOING_AWAY, Inbox, send
from visuomotor.serving.observations import ObservationKeys
from visuomotor.serving.service import Service
from visuomotor.serving.specs import action_spec, observation_params, observation_spec

__all__ = ["handle"]

PROTOCOL = "vla-eval"
log = logging.getLogger("visuomotor.serving")


async def handle(connection: ServerConnection, inbox: Inbox, service: Service, keys: ObservationKeys) -> None:
    """Serve one client until it leaves or the server stops."""
    client = _Client(inbox, service, keys)
    async for frame in inbox:
        frames = [frame, *(inbox.take_waiting() if client.live else [])]
        await client.take(_unpack(frames))
        if service.stopping:
            await connection.close(GOING_AWAY, "the server is stopping")


class _Client:
    """What is remembered of one connection and its present episode."""

    def __init__(self, inbox: Inbox, service: Service, keys: ObservationKeys) -> None:
        self.name, self.connection, self.service, self.keys = inbox.client, inbox.connection, service, keys
        executor = RecedingHorizon(action_dim=service.embodiment.action_dim, execute=service.config.execute)
        self.robot = Controller(executor, service.safety())
        self.refused: str | None = None  # why, where the client speaks another version
        self.start({})

    def start(self, payload: dict[str, Any]) -> None:
        """A new episode: nothing is remembered of the one before."""
        self.live = payload.get("mode") == "live"
        self.instruction: str | None = None
        self.forget()

    def forget(self, *, moving: bool = False) -> None:
        """No chunk, and another session, because a request whose time was over may still write into the old one.

        `moving`: the robot is under way, so the safety filter remembers its motion.
        """
        self.session = self.service.session()
        self.session.executed = self.service.config.execute
        self.answer: Answer | None = None  # whose chunk is being given out, and how many actions of it
        self.given = 0
        self.robot.reset(moving=moving)

    async def take(self, messages: list[Message | MalformedMessage]) -> None:
        """Answer messages in their order; a run of observations that came together gets its due together."""
        while messages:
            message = messages.pop(0)
            if isinstance(message, MalformedMessage):
                await self._refuse(message.seq, "malformed", str(message))
            elif message.type == "observation":
                numbers, newest = [message.seq], message
                while self.robot.needs_chunk and (later := _next_observation(messages)) is not None:
                    newest = later
                    numbers.append(newest.seq)
                await self._observe(newest.payload, numbers)
            else:
                await self._note(message)

    async def _note(self, message: Message) -> None:
        """Everything but observations."""
        if message.type == "hello":
            await self._greet(message)
        elif message.type == "episode_start":
            self.start(message.payload)
            log.info("episode starts", extra={"protocol": PROTOCOL, "live": self.live, **_task(message.payload)})
        elif message.type == "episode_end":
            log.info("episode ends", extra={"protocol": PROTOCOL, "result": str(message.payload.get("metrics"))[:200]})
        elif message.type == "error":
            log.warning("the client reports an error", extra={"error": str(message.payload.get("error"))[:500]})
        else:
            await self._refuse(message.seq, "malformed", f"A client does not send {message.type!r}.")

    async def _greet(self, message: Message) -> None:
        theirs = message.payload.get("protocol_version")
        self.refused = None
        if theirs != wire.PROTOCOL_VERSION:
            self.refused = (
                f"This server speaks version {wire.PROTOCOL_VERSION} of the protocol and the client "
                f"{str(theirs)[:40]}; use a client of version {wire.PROTOCOL_VERSION}."
            )
            await self._refuse(message.seq, "version", self.refused)
            return
        payload = {
            "harness_version": visuomotor.__version__,
            "protocol_version": wire.PROTOCOL_VERSION,
            "model_server": "visuomotor",
            "capabilities": {},
            "observation_params": observation_params(self.service.embodiment),
            "action_spec": action_spec(self.service.embodiment),
            "observation_spec": observation_spec(self.keys),
            "embodiment": self.service.embodiment.to_json(),
        }
        await self._send("hello", payload, message.seq)

    async def _observe(self, payload: dict[str, Any], numbers: list[int]) -> None:
        """One action, sent in answer to each of the observations `numbers`, of which `payload` is the newest."""
        started = time.perf_counter()
        action, refusal = await self.service.attempt(PROTOCOL, self._action(payload))
        for seq in numbers:
            if action is None:
                await self._send("error", {"error": refusal}, seq)
            else:
                await self._send("action", {"actions": action}, seq)
        self.service.metrics.latency.observe(time.perf_counter() - started, PROTOCOL)

    async def _action(self, payload: dict[str, Any]) -> np.ndarray:
        """float32[A]. ValueError where the payload is no observation; else what `Service.act` raises."""
        if self.refused is not None:
            raise ValueError(self.refused)
        if "state" not in payload and "states" in payload:
            payload = {**payload, "state": payload["states"]}
        observation = await self.service.read(self.keys, payload)
        # actions that were planned for another instruction, or before a stop, are not given out
        if self.service.released(self.robot.safety) or observation.instruction != self.instruction:
            self.forget(moving=True)
            self.instruction = observation.instruction
        self.robot.observe(observation.state, time.monotonic())
        if self.robot.needs_chunk:
            self.robot.request()
            try:
                answer = await self.service.act(observation, self.session)
                self.robot.answer(answer.chunk.actions)
            except Exception:
                self.robot.cancel()
                raise
            self.answer, self.given = answer, 0
        command = self.robot.act()
        self.given += 1
        if self.answer is not None:
            self.service.tell(self.name, observation, self.answer, self.given)
        return self.service.counted(self.robot.safety, [command])[0]

    async def _refuse(self, seq: int, kind: str, text: str) -> None:
        self.service.report(PROTOCOL, kind, text)
        await self._send("error", {"error": text}, seq)

    async def _send(self, kind: str, payload: dict[str, Any], seq: int) -> None:
        frame = wire.pack(Message(type=kind, payload=payload, seq=seq))
        await send(self.connection, frame, self.service.config.limits)


def _unpack(frames: list[str | bytes]) -> list[Message | MalformedMessage]:
    messages: list[Message | MalformedMessage] = []
    for frame in frames:
        try:
            if isinstance(frame, str):
                raise MalformedMessage("Messages are binary frames (msgpack); a text frame came.")
            messages.append(wire.unpack(frame, images=False))
        except MalformedMessage as error:
            messages.append(error)
    return messages


def _next_observation(messages: list[Message | MalformedMessage]) -> Message | None:
    """Takes the first message, if it is an observation."""
    first = messages[0] if messages else None
    if not isinstance(first, Message) or first.type != "observation":
        return None
    del messages[0]
    return first


def _task(payload: dict[str, Any]) -> dict[str, Any]:
    task = payload.get("task")
    return {"task": str(task.get("name"))[:200]} if isinstance(task, dict) else {}

"""One client's connection: its frames as they come, within its limits, and answers that it must take in time."""

import asyncio
from collections.abc import AsyncIterator

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from visuomotor.serving.config import Limits

__all__ = ["Inbox", "send"]

GOING_AWAY, POLICY_VIOLATION = 1001, 1008
MAX_FRAMES = 64  # kept of one connection, or as many as the largest message has bytes; the network holds back the rest
PRESENT = 2.0  # seconds after connecting or an answer for which a client is expected to ask soon


class Inbox:
    """Frames of a connection, oldest first, no faster than its rate; ends when the connection does.

    `busy` from a frame until the next one is asked for, so that a server that stops can tell who waits for an answer.
    `client`: the other end's address.
    """

    def __init__(self, connection: ServerConnection, limits: Limits) -> None:
        self.connection, self.limits = connection, limits
        self.busy = False
        self._answered = asyncio.get_running_loop().time()
        self.client = ":".join(str(part) for part in (connection.remote_address or ("gone",))[:2])
        self._frames: asyncio.Queue[str | bytes | None] = asyncio.Queue(MAX_FRAMES)  # None: there will be no more
        self._held, self._room = 0, asyncio.Event()  # bytes of the frames that wait
        self._room.set()
        self._reader: asyncio.Task[None] | None = None
        self._tokens, self._counted = limits.requests_per_second, asyncio.get_running_loop().time()

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        self._reader = asyncio.create_task(self._read(), name="reader")
        while (frame := await self._next()) is not None:
            self.busy = True
            await self._throttle()
            yield frame
            self.busy, self._answered = False, asyncio.get_running_loop().time()

    @property
    def present(self) -> bool:
        """Whether the client asks or may do so soon: one that is silent for long is not worth waiting for."""
        return self.busy or asyncio.get_running_loop().time() - self._answered < PRESENT

    def close(self) -> None:
        """Nobody will ask for frames any more."""
        if self._reader is not None:
            self._reader.cancel()

    def take_waiting(self) -> list[str | bytes]:
        """All frames that have come meanwhile."""
        frames: list[str | bytes] = []
        while not self._frames.empty():
            frame = self._frames.get_nowait()
            if frame is None:
                self._frames.put_nowait(None)
                break
            frames.append(frame)
            self._hold(-len(frame))
        return frames

    async def _next(self) -> str | bytes | None:
        try:
            async with asyncio.timeout(self.limits.idle_seconds):
                frame = await self._frames.get()
        except TimeoutError:
            await self.connection.close(POLICY_VIOLATION, "nothing came for too long")
            return None
        if frame is not None:
            self._hold(-len(frame))
        return frame

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held < self.limits.message_bytes:
            self._room.set()
        else:
            self._room.clear()

    async def _read(self) -> None:
        try:
            async for frame in self.connection:
                await self._room.wait()
                self._hold(len(frame))
                await self._frames.put(frame)
        except ConnectionClosed:
            pass  # a client that was killed says no goodbye
        await self._frames.put(None)

    async def _throttle(self) -> None:
        """Wait until the connection's rate allows one more frame."""
        now, rate = asyncio.get_running_loop().time(), self.limits.requests_per_second
        self._tokens = min(self._tokens + (now - self._counted) * rate, max(rate, 1.0)) - 1
        self._counted = now
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / rate)


async def send(connection: ServerConnection, frame: str | bytes, limits: Limits) -> None:
    """Send a frame; a client that does not read it in time is cut off, so that it holds nothing up."""
    try:
        async with asyncio.timeout(limits.send_seconds):
            await connection.send(frame)
    except TimeoutError:
        connection.transport.abort()
        raise

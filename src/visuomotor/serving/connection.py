"""One client's connection: its frames as they come, within its limits, and answers that it must take in time."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from visuomotor.serving.config import Limits

__all__ = ["Inbox", "send"]

GOING_AWAY, POLICY_VIOLATION = 1001, 1008
MAX_FRAMES = 64  # kept of one connection; the network holds back the rest


class Inbox:
    """Frames of a connection, oldest first, no faster than its rate; ends when the connection does.

    `busy` from a frame until the next one is asked for, so that a server that stops can tell who waits for an answer.
    """

    def __init__(self, connection: ServerConnection, limits: Limits) -> None:
        self.connection, self.limits = connection, limits
        self.busy = False
        self._frames: deque[str | bytes] = deque()
        self._change = asyncio.Event()
        self._ended = False
        self._tokens, self._counted = limits.requests_per_second, asyncio.get_running_loop().time()

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        reader = asyncio.create_task(self._read(), name="reader")
        try:
            while True:
                self.busy = False
                if not self._frames and not await self._wait():
                    return
                self.busy = True
                await self._throttle()
                yield self._frames.popleft()
        finally:
            self.busy = False
            reader.cancel()

    def take_waiting(self) -> list[str | bytes]:
        """All frames that have come meanwhile."""
        frames = list(self._frames)
        self._frames.clear()
        self._change.set()
        return frames

    async def _wait(self) -> bool:
        """True when there is a frame; False when there will be none."""
        while not self._frames:
            if self._ended:
                return False
            self._change.clear()
            try:
                async with asyncio.timeout(self.limits.idle_seconds):
                    await self._change.wait()
            except TimeoutError:
                await self.connection.close(POLICY_VIOLATION, "nothing came for too long")
                return False
        return True

    async def _read(self) -> None:
        try:
            async for frame in self.connection:
                while len(self._frames) >= MAX_FRAMES:
                    self._change.clear()
                    await self._change.wait()
                self._frames.append(frame)
                self._change.set()
        except ConnectionClosed:
            pass  # a client that was killed says no goodbye
        finally:
            self._ended = True
            self._change.set()

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

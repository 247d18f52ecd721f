"""What one connection may hold."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from visuomotor.serving.config import Limits
from visuomotor.serving.connection import Inbox


class Talkative:
    """A connection that sends whenever it is read from."""

    remote_address = ("127.0.0.1", 1)

    def __init__(self, frames: list[bytes]) -> None:
        self.frames, self.read = frames, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for frame in self.frames:
            self.read += 1
            yield frame


def test_frames_that_wait_are_bounded_in_bytes_and_none_is_lost() -> None:
    frames = [bytes([i]) * 60 for i in range(10)]

    async def talk() -> list[Any]:
        connection = Talkative(frames)
        inbox = Inbox(connection, Limits(message_bytes=100))  # type: ignore[arg-type]
        taken = []
        async for frame in inbox:
            await asyncio.sleep(0.001)
            waiting = connection.read - len(taken) - 1
            assert waiting <= 3  # two that fill the room, and one that has been read and waits for it
            taken.append(frame)
        return taken

    assert asyncio.run(talk()) == frames


def test_what_waits_can_be_taken_at_once() -> None:
    async def talk() -> None:
        connection = Talkative([letter * 60 for letter in (b"a", b"b", b"c", b"d")])
        inbox = Inbox(connection, Limits(message_bytes=100))  # type: ignore[arg-type]
        iterator = aiter(inbox)
        assert await anext(iterator) == b"a" * 60
        await asyncio.sleep(0.001)
        assert inbox.take_waiting() == [b"b" * 60, b"c" * 60]
        assert await anext(iterator) == b"d" * 60
        inbox.close()

    asyncio.run(talk())

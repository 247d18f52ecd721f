"""The page's server: files, frames, commands, and who may not come in."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from visuomotor.apps.live.page import LivePage, serve_page


class Served:
    """A page that is served, and what its viewers did."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []
        self.left = 0
        self.page = LivePage(self.take, self.leave)
        self.port = 0

    def take(self, command: dict[str, Any]) -> None:
        if command.get("do") == "dance":
            raise ValueError("Robots do not dance.")
        self.given.append(command)

    def leave(self) -> None:
        self.left += 1

    def open(self, **headers: str) -> Any:
        return connect(f"ws://127.0.0.1:{self.port}/live", additional_headers=headers)

    async def get(self, path: str, host: str | None = None, method: str = "GET", more: str = "") -> tuple[int, str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: {host or f'127.0.0.1:{self.port}'}\r\n{more}\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()
        return int(answer.split()[1]), answer


def run(story: Callable[[Served], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        served = Served()
        async with await serve_page(served.page) as server:
            served.port = server.sockets[0].getsockname()[1]
            async with asyncio.timeout(30):
                await story(served)

    asyncio.run(whole())


async def receive(connection: ClientConnection) -> dict[str, Any]:
    return json.loads(await connection.recv())


def test_files_and_nothing_else() -> None:
    async def story(served: Served) -> None:
        for path, kind in (("/", "text/html"), ("/page.js?x=1", "text/javascript"), ("/page.css", "text/css")):
            status, text = await served.get(path)
            assert status == 200
            assert f"Content-Type: {kind}" in text
            assert "Content-Security-Policy: default-src 'self'" in text
        for path in ("/../page.py", "/static/page.html", "/etc/passwd", "//"):
            assert (await served.get(path))[0] == 404

    run(story)


def test_frames_out_and_commands_in() -> None:
    async def story(served: Served) -> None:
        served.page.publish({"n": 0})
        async with served.open() as one, served.open() as two:
            assert await receive(one) == await receive(two) == {"n": 0}
            served.page.publish({"n": 1})
            assert await receive(one) == await receive(two) == {"n": 1}
            await one.send(json.dumps({"do": "stop"}))
            for wrong in ("no json", "[1]", json.dumps({"do": "dance"}), b"\xff", "[" * 9000):
                await one.send(wrong)
                assert "error" in await receive(one)
            served.page.publish({"n": 2})
            assert await receive(two) == {"n": 2}
        assert served.given == [{"do": "stop"}]
        while not served.left:
            await asyncio.sleep(0.01)
        assert served.left == 1, "once, when the last viewer is gone"
        served.page.publish({"n": 3})

    run(story)


def test_who_reads_slowly_gets_the_latest_and_holds_nobody_up() -> None:
    async def story(served: Served) -> None:
        async with served.open() as slow, served.open() as quick:
            await slow.ping()
            for n in range(500):
                served.page.publish({"n": n, "filling": "x" * 100_000})
                if n % 100 == 0:
                    await asyncio.sleep(0)
            seen = -1
            while seen < 499:
                seen = (await receive(quick))["n"]
            count, last = 0, -1
            while last < 499:
                last, count = (await receive(slow))["n"], count + 1
            assert count < 500

    run(story)


def test_other_sites_stay_out() -> None:
    async def story(served: Served) -> None:
        own = f"http://localhost:{served.port}"
        async with served.open(Origin=own) as connection:
            await connection.send(json.dumps({"do": "pause"}))
        for origin in (
            "http://evil.example",
            "https://127.0.0.1",
            "null",
            f"http://127.0.0.1:{served.port}.evil.example",
        ):
            with pytest.raises(InvalidStatus):
                await served.open(Origin=origin)
        assert (await served.get("/", host=f"evil.example:{served.port}"))[0] == 403
        async with served.open() as connection:
            await connection.send("x" * 20_000)
            with pytest.raises(ConnectionClosed):
                await connection.recv()

    run(story)


def test_a_script_stops_by_a_post_and_other_sites_do_not() -> None:
    async def story(served: Served) -> None:
        for path in ("/stop", "/release"):
            assert (await served.get(path))[0] == 404, "a link or a picture must not stop a robot"
            for origin in ("http://evil.example", "null"):
                assert (await served.get(path, method="POST", more=f"Origin: {origin}\r\n"))[0] == 403
            assert (await served.get(path, host="evil.example", method="POST"))[0] == 403
        assert (await served.get("/live", method="POST"))[0] == 404
        assert served.given == []
        assert (await served.get("/stop", method="POST", more="Content-Length: 0\r\n"))[0] == 200
        assert (await served.get("/release", method="POST"))[0] == 200
        assert served.given == [{"do": "stop"}, {"do": "release"}]

    run(story)


def test_other_computers_stay_out() -> None:
    with pytest.raises(ValueError, match="stays on loopback"):
        asyncio.run(serve_page(LivePage(lambda command: None), host="0.0.0.0"))

"""The page's way to browsers: files over HTTP, frames and commands over one WebSocket, on one port.

A LivePage knows nothing of robots: `publish` gives it frames, `command` takes what the user does. So a server that has
a port already can offer it too: `respond` answers a request's path, `handle` serves a connection to `/live`.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

__all__ = ["LivePage", "serve_page"]

logger = logging.getLogger(__name__)
STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
POSTED = ("/stop", "/release")
LARGEST_COMMAND = 10_000
OWN_ONLY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"


class LivePage:
    """The viewers of one robot. `publish` may be called from any thread, everything else belongs to the event loop.

    command: takes what a viewer does, a JSON object; its ValueError goes back to that viewer as a message.
    left: called when the last viewer is gone.
    """

    def __init__(self, command: Callable[[dict[str, Any]], None], left: Callable[[], None] = lambda: None) -> None:
        self.command, self.left = command, left
        self._viewers: dict[ServerConnection, asyncio.Queue[str]] = {}
        self._last: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def viewed(self) -> bool:
        """Whether somebody looks."""
        return bool(self._viewers)

    def respond(self, path: str) -> tuple[str, bytes] | None:
        """MIME type and contents of a file of the page; None where there is none."""
        found = STATIC.get(urlsplit(path).path)
        if found is None:
            return None
        name, kind = found
        return kind, (files("visuomotor.apps.live") / "static" / name).read_bytes()

    def publish(self, frame: dict[str, Any]) -> None:
        """Show a frame to all viewers, and to those that come later; who reads slowly misses some."""
        text = json.dumps(frame)
        self._last = text
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hand_out, text)

    async def handle(self, connection: ServerConnection) -> None:
        """Serve one viewer until it leaves."""
        self._loop = asyncio.get_running_loop()
        frames = self._viewers[connection] = asyncio.Queue(maxsize=1)
        if self._last is not None:
            frames.put_nowait(self._last)
        sender = asyncio.create_task(self._send(connection, frames))
        try:
            async for text in connection:
                await self._obey(connection, text)
        except ConnectionClosed:
            pass  # a closed tab says no goodbye
        finally:
            sender.cancel()
            del self._viewers[connection]
            if not self._viewers:
                self.left()

    async def _obey(self, connection: ServerConnection, text: str | bytes) -> None:
        try:
            given = json.loads(text)
            if not isinstance(given, dict):
                raise ValueError("A command is a JSON object.")
            self.command(given)
        except (ValueError, RecursionError) as error:
            await connection.send(json.dumps({"error": str(error)}))

    async def _send(self, connection: ServerConnection, frames: "asyncio.Queue[str]") -> None:
        try:
            while True:
                await connection.send(await frames.get())
        except ConnectionClosed:
            pass

    def _hand_out(self, text: str) -> None:
        for frames in self._viewers.values():
            if frames.full():
                frames.get_nowait()
            frames.put_nowait(text)


async def serve_page(page: LivePage, port: int = 0, host: str = "127.0.0.1") -> Server:
    """Serve the page on this computer; close the server to end it. OSError: the port is taken.

    POST /stop and /release, without a body, are commands too, for scripts.
    """
    if host not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"The page moves a robot and asks nobody for a password, so it stays on loopback; not {host}.")

    def process(connection: ServerConnection, request: Request) -> Response | None:
        own = connection.local_address[1]
        if not _is_ours(request, own):
            return _reply(HTTPStatus.FORBIDDEN, "text/plain", b"This page is for this computer alone.\n")
        if getattr(request, "method", "GET") == "POST":  # older websockets refuse it themselves, and know no method
            return _posted(page, request.path)
        if urlsplit(request.path).path == "/live":
            return None
        found = page.respond(request.path)
        if found is None:
            return _reply(HTTPStatus.NOT_FOUND, "text/plain", b"There is no such page.\n")
        return _reply(HTTPStatus.OK, *found)

    return await serve(
        page.handle, host, port, process_request=process, max_size=LARGEST_COMMAND, compression=None, server_header=None
    )


def _posted(page: LivePage, path: str) -> Response:
    if path not in POSTED:
        return _reply(HTTPStatus.NOT_FOUND, "text/plain", f"Post to {' or '.join(POSTED)}.\n".encode())
    page.command({"do": path.removeprefix("/")})
    return _reply(HTTPStatus.OK, "text/plain", b"OK\n")


def _is_ours(request: Request, port: int) -> bool:
    """Whether a request comes from this page: other sites' scripts must not reach the robot through a browser, neither
    by a WebSocket or a POST of their own (Origin) nor under a name that points to this computer (Host)."""
    names = {f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")}
    origin = request.headers.get("Origin")
    return request.headers.get("Host") in names and (origin is None or origin.removeprefix("http://") in names)


def _reply(status: HTTPStatus, kind: str, body: bytes) -> Response:
    headers = Headers(
        {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "Content-Security-Policy": OWN_ONLY,
            "X-Content-Type-Options": "nosniff",
        }
    )
    return Response(status.value, status.phrase, headers, body)

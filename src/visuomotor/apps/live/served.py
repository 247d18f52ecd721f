"""The page beside a policy server: what its clients' cameras see, what the policy answers, and a stop for all robots.

There is no simulator here: clients give the instructions, and where the cameras stand is not known, so that over the
pictures is drawn only what the policy itself points at.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from websockets.asyncio.server import Server

from visuomotor.apps.live.frames import ChunkShown, Latency, images_shown
from visuomotor.apps.live.page import LivePage, serve_page
from visuomotor.serving.service import Service
from visuomotor.serving.watching import Exchange

__all__ = ["ServedPage"]

logger = logging.getLogger(__name__)
UNSEEN = "The last answer cannot be shown; the server's log says why."
INTERVAL = 0.1  # s between frames: encoding pictures takes time that answers need


class ServedPage:
    """A page on this computer that watches a service, on the event loop that serves.

        async with ServedPage(server.service, port=8080) as page:
            page.address  # "http://127.0.0.1:8080/"

    Commands: {"do": "stop"}, {"do": "release"}, {"do": "watch", "client": address, or "" for who asked last}. Entering
    raises OSError where the port is taken.
    """

    def __init__(self, service: Service, *, port: int = 0) -> None:
        self.service, self.port, self.address = service, port, ""
        self.page = LivePage(self.command)
        self.latency = Latency()
        self.chosen = ""
        self.count = 0
        self._latest: dict[str, Exchange] = {}  # by client, who asked last at the end
        self._shown: Exchange | None = None
        self._published: dict[str, Any] | None = None

    async def __aenter__(self) -> "ServedPage":
        self._server: Server = await serve_page(self.page, self.port)
        self.address = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        self.service.watcher = self
        self._task = asyncio.create_task(self._publish(), name="page")
        return self

    async def __aexit__(self, *_: object) -> None:
        self.service.watcher = None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._server.close()
        await self._server.wait_closed()

    def answered(self, exchange: Exchange) -> None:
        """Keep what a client saw and got, until the next frame is due."""
        self.count += 1
        before = self._latest.pop(exchange.client, None)
        self._latest[exchange.client] = exchange
        if before is None or before.answer is not exchange.answer:  # else another action of the same chunk
            self.latency.add(exchange.answer.waited + exchange.answer.inference)

    def command(self, given: Mapping[str, Any]) -> None:
        """Take a command of the page. ValueError: it is none, or nobody has that name."""
        what = given.get("do")
        if what == "stop":
            self.service.stop_robots("pressed on the page")
        elif what == "release":
            self.service.release_robots()
        elif what == "watch":
            client = given.get("client")
            if client and client not in self._clients():
                raise ValueError(f"No client {client!r} is connected; they are {self._clients()}.")
            self.chosen = client or ""
        else:
            raise ValueError(f"Unknown command {what!r}; a server's page takes stop, release and watch.")

    def _clients(self) -> list[str]:
        return sorted(inbox.client for inbox in self.service.inboxes)

    async def _publish(self) -> None:
        """Frames, for as long as the page is open; none where nobody looks or nothing has changed."""
        while True:
            await asyncio.sleep(INTERVAL)
            self._forget_who_left()
            moment = self._moment()
            if not self.page.viewed or moment == self._published:
                continue
            self._published = moment
            try:
                await asyncio.to_thread(self._show, moment, self._shown)
            except Exception:  # of a picture or chunk; whether robots are stopped is shown all the same
                logger.exception("The page could not show what a client saw")
                self.page.publish({**moment, "images": {}, "chunk": None, "message": UNSEEN})

    def _forget_who_left(self) -> None:
        """Only of clients that are there is anything kept; the last picture stays on the page."""
        clients = self._clients()
        self._latest = {client: exchange for client, exchange in self._latest.items() if client in clients}
        self.chosen = self.chosen if self.chosen in clients else ""
        if self._latest:
            self._shown = self._latest.get(self.chosen, list(self._latest.values())[-1])

    def _moment(self) -> dict[str, Any]:
        """What changes from frame to frame, without pictures and chunk."""
        reasons = {reason: int(n) for (reason,), n in self.service.metrics.interventions.values.items()}
        stopped, shown = self.service.stopped is not None, self._shown
        client = "" if shown is None else shown.client
        return {
            "status": "stopped" if stopped else "serving" if self.service.answers else "starting",
            "message": f"{self.chosen} has not asked yet." if self.chosen not in ("", client) else "",
            "instruction": "" if shown is None else shown.observation.instruction,
            "scene": 0,
            "step": self.count,
            "position": 0 if shown is None else shown.given,
            "latency": self.latency.to_json(),
            "interventions": sum(reasons.values()),
            "reasons": reasons,
            "stopped": stopped,
            "movable": False,
            "clients": self._clients(),
            "chosen": self.chosen,
            "client": client,
            "batch": 0 if shown is None else shown.answer.batch_size,
        }

    def _show(self, moment: dict[str, Any], shown: Exchange | None) -> None:
        """Publish a frame; on another thread, because pictures are encoded."""
        if shown is None:
            self.page.publish({**moment, "images": {}, "chunk": None})
            return
        chunk = ChunkShown(chunk=shown.answer.chunk).to_json({})
        self.page.publish({**moment, "images": images_shown(shown.observation.images), "chunk": chunk})

"""The server: a port for each protocol, HTTP beside it, from warming up to stopping in good order.

GET /healthz   200 "OK" as soon as the process listens (openpi's)
GET /health    200 {"status": "ok"} when requests are answered, 503 before and while stopping (vla-eval's)
GET /config    vla-eval's: shows or sets max_batch_size and max_wait_time
GET /metrics   Prometheus
"""

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from websockets.asyncio.server import Server, ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from visuomotor.contract import Observation
from visuomotor.serving import openpi, vla_eval
from visuomotor.serving.access import authorised, from_a_web_page
from visuomotor.serving.config import ServeConfig
from visuomotor.serving.connection import GOING_AWAY, Inbox
from visuomotor.serving.observations import ObservationKeys, keys_for
from visuomotor.serving.service import Service
from visuomotor.session import PolicyLike

__all__ = ["PolicyServer", "serve"]

log = logging.getLogger("visuomotor.serving")

HANDLERS = {openpi.PROTOCOL: openpi.handle, vla_eval.PROTOCOL: vla_eval.handle}
WARM_UP = (1, 2)  # batch sizes


class PolicyServer:
    """Serves a policy until it is stopped.

        async with PolicyServer(policy, ServeConfig()) as server:
            server.addresses  # {"openpi": "ws://127.0.0.1:8000", ...}

    keys: {protocol: ObservationKeys}, where those derived from the embodiment are not the clients'.
    """

    def __init__(
        self, policy: PolicyLike, config: ServeConfig, *, keys: dict[str, ObservationKeys] | None = None
    ) -> None:
        self.config = config
        self.service = Service(policy, config)
        self.service.safety().log_missing()  # limits that do not fit are refused now
        self.keys = {name: (keys or {}).get(name) or keys_for(policy.embodiment, name) for name in HANDLERS}
        self.addresses: dict[str, str] = {}
        self._servers: list[Server] = []

    async def start(self) -> None:
        """Listen, warm the policy up, be ready. Clients that come before wait. OSError: a port is taken."""
        try:
            await self._listen()
            self.service.batcher.start()
            await self._warm_up()
        except Exception:
            await self.stop()
            raise
        self.service.ready.set()
        log.info("ready", extra={"addresses": self.addresses, "embodiment": self.service.embodiment.name})

    async def _listen(self) -> None:
        ports = {openpi.PROTOCOL: self.config.openpi_port, vla_eval.PROTOCOL: self.config.vla_eval_port}
        tls = self.config.tls()
        for protocol, port in ports.items():
            if port is None:
                continue
            server = await listen(
                partial(self._serve, protocol),
                self.config.host,
                port,
                process_request=partial(self._http, protocol),
                ssl=tls,
                compression=None,
                max_size=self.config.limits.message_bytes,
                ping_interval=None,  # a benchmark that builds a scene answers no pings for minutes
                server_header=None,
                logger=logging.getLogger("visuomotor.serving.websockets"),
            )
            self._servers.append(server)
            port = server.sockets[0].getsockname()[1]
            host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
            self.addresses[protocol] = f"{'ws' if tls is None else 'wss'}://{host}:{port}"

    async def stop(self) -> None:
        """Take nobody any more, answer what runs, close all connections (code 1001)."""
        self.service.stopping = True
        self.service.ready.set()  # who waits for it is let through, and closed
        for server in self._servers:
            server.close(close_connections=False)
        idle = [inbox.connection for inbox in self.service.inboxes if not inbox.busy]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.stop_seconds):
                # side by side: a client that does not answer the goodbye holds up nobody else's
                await asyncio.gather(*(client.close(GOING_AWAY, "the server is stopping") for client in idle))
                await asyncio.gather(*(server.wait_closed() for server in self._servers))
        for inbox in list(self.service.inboxes):
            inbox.connection.transport.abort()
        await self.service.batcher.close()
        self._servers.clear()
        log.info("stopped")

    async def __aenter__(self) -> "PolicyServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _warm_up(self) -> None:
        robot = self.service.embodiment
        images = {c.name: np.full((c.height, c.width, 3), 127, np.uint8) for c in robot.cameras}
        state = np.zeros(robot.state_dim, np.float32)
        observation = Observation(images=images, state=state, instruction=self.config.instruction or "warm up")
        for size in WARM_UP:
            if size <= self.config.max_batch_size:
                await self.service.batcher.in_thread([observation] * size)

    async def _serve(self, protocol: str, connection: ServerConnection) -> None:
        """One client, from its handshake to its end, whatever happens to it."""
        inbox = Inbox(connection, self.config.limits)
        about = {"protocol": protocol, "client": connection.remote_address}
        self.service.inboxes.add(inbox)
        log.info("connected", extra=about)
        try:
            await self.service.ready.wait()
            if self.service.stopping:
                return
            await HANDLERS[protocol](connection, inbox, self.service, self.keys[protocol])
        except (ConnectionClosed, TimeoutError):
            pass  # gone, or cut off because it did not read; `disconnected` says how
        except Exception:
            log.exception("a connection failed", extra=about)
            raise
        finally:
            inbox.close()
            self.service.inboxes.discard(inbox)
            log.info("disconnected", extra={**about, "code": connection.protocol.close_code})

    async def _http(self, protocol: str, connection: ServerConnection, request: Request) -> Response | None:
        """Answers plain HTTP, refuses who may not connect; None lets the WebSocket handshake go on."""
        service, address = self.service, urlsplit(request.path)
        if address.path == "/healthz":
            return _respond(HTTPStatus.OK, "OK\n")
        if address.path == "/health":
            if service.answers:
                return _json(HTTPStatus.OK, {"status": "ok"})
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "stopping" if service.stopping else "starting"})
        if from_a_web_page(request.headers):
            return self._refuse(HTTPStatus.FORBIDDEN, "origin", "Web pages may not connect to this server.\n")
        if not authorised(request.headers.get("Authorization"), self.config.api_keys):
            return self._refuse(HTTPStatus.UNAUTHORIZED, "key", "Show an API key: Authorization: Api-Key KEY\n")
        if address.path == "/metrics":
            return _respond(HTTPStatus.OK, service.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")
        if address.path == "/config" and protocol == vla_eval.PROTOCOL:
            return self._configure(parse_qs(address.query))
        if len(service.inboxes) >= self.config.limits.connections:
            return self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "full", "Too many clients are connected.\n")
        return None

    def _refuse(self, status: HTTPStatus, reason: str, text: str) -> Response:
        self.service.metrics.refused.add(reason)
        return _respond(status, text)

    def _configure(self, wanted: dict[str, list[str]]) -> Response:
        """vla-eval's control plane: max_batch_size, at most the configured one, and max_wait_time in seconds."""
        batcher, applied, errors = self.service.batcher, dict[str, Any](), list[str]()
        for name, values in wanted.items():
            try:
                if name == "max_batch_size" and 1 <= int(values[-1]) <= self.config.max_batch_size:
                    applied[name] = batcher.max_batch_size = int(values[-1])
                elif name == "max_wait_time" and 0 <= float(values[-1]) <= self.config.limits.request_seconds:
                    applied[name] = batcher.max_wait = float(values[-1])
                else:
                    errors.append(f"{name}={values[-1]!r} is unknown or out of range")
            except ValueError:
                errors.append(f"{name}={values[-1]!r} is no number")
        now = {"max_batch_size": batcher.max_batch_size, "max_wait_time": batcher.max_wait}
        body: dict[str, Any] = {"applied": applied, "config": now}
        if errors:
            body["errors"] = errors
        log.info("configured", extra=body)
        refused = bool(errors) and not applied  # what could be set was set, as the reference server has it
        return _json(HTTPStatus.UNPROCESSABLE_ENTITY if refused else HTTPStatus.OK, body)


def serve(
    server: PolicyServer,
    *,
    started: Callable[[PolicyServer], None] = lambda _: None,
    beside: AbstractAsyncContextManager[Any] | None = None,
) -> None:
    """Run until SIGINT or SIGTERM, then stop in good order; a second signal ends the process.

    `started` is told once requests are answered; `beside` is open on the same event loop, from before until after.
    """

    async def run() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):

            def on_signal(number: signal.Signals = number) -> None:
                loop.remove_signal_handler(number)
                stop.set()

            loop.add_signal_handler(number, on_signal)
        starting = asyncio.create_task(server.start())
        await asyncio.wait({starting, stopping := asyncio.create_task(stop.wait())}, return_when="FIRST_COMPLETED")
        if starting.done():
            starting.result()
            started(server)
            await stopping
        else:
            starting.cancel()
        await server.stop()

    async def both() -> None:
        async with beside or contextlib.nullcontext():
            await run()

    asyncio.run(both())


def _json(status: HTTPStatus, body: dict[str, Any]) -> Response:
    return _respond(status, json.dumps(body) + "\n", "application/json")


def _respond(status: HTTPStatus, text: str, kind: str = "text/plain; charset=utf-8") -> Response:
    body = text.encode()
    headers = Headers([("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")])
    return Response(status.value, status.phrase, headers, body)

"""A connection to a policy server that speaks openpi's protocol, ours or another."""

import ssl
import time
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Optional

import numpy as np
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException
from websockets.sync.client import connect as open_websocket

from visuomotor_client import openpi
from visuomotor_client.images import encode_image, is_image

LONGEST_PAUSE = 8.0
GOODBYE = 0.5  # seconds in which a server may answer it; a robot does not stand still for one that hangs
TEMPORARY = (429, 500, 502, 503, 504)  # HTTP answers to a handshake that a later try may not get


class PolicyError(RuntimeError):
    """The server refused a request; the connection is as good as before."""


class PolicyClient:
    """Sends observations, receives action chunks; one request at a time.

    Args:
        uri: "ws://host:port", or "wss://host:port" with TLS.
        api_key: sent as "Authorization: Api-Key ...".
        tls: certificates to trust, where they are not the system's.
        timeout: seconds to wait for an answer, and for a server to take the connection.
        attempts: how often a connection is tried, with pauses of `pause`, twice, four times ... that many seconds.
        jpeg: quality (1-95) with which images uint8[h, w, 3] are compressed; lossy, needs Pillow and a server of ours.

    Raises:
        ConnectionError: nobody answered after all attempts. PermissionError: the API key was refused.
    """

    def __init__(
        self,
        uri: str,
        *,
        api_key: Optional[str] = None,
        tls: Optional[ssl.SSLContext] = None,
        timeout: float = 30.0,
        attempts: int = 6,
        pause: float = 0.25,
        jpeg: Optional[int] = None,
    ) -> None:
        if attempts < 1:
            raise ValueError(f"Expected at least 1 attempt to connect; given attempts={attempts}.")
        self.uri = uri if "://" in uri else f"ws://{uri}"
        self.timeout, self.attempts, self.pause, self.jpeg = timeout, attempts, pause, jpeg
        self._headers = {} if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._tls = tls
        self._open = ExitStack()
        self._socket: Any = None
        self._connect()

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The server's answer: `actions` float32[T, A] in robot units, and `server_timing`.

        `observation`: arrays, texts and numbers under the keys that `metadata["observation_keys"]` has. A connection
        that was lost is made again and the observation sent once more; a new one is a new session of the policy.

        Raises:
            PolicyError: the server refused the request. TimeoutError: no answer in time.
            ConnectionError: the server is gone.
        """
        message = openpi.pack(self._compressed(observation))
        for retry in (True, False):
            try:
                self._connected().send(message)
                return self._receive()
            except (WebSocketException, OSError) as error:
                self.close()  # an answer that comes late must not be taken for that of the next request
                if isinstance(error, TimeoutError):
                    raise TimeoutError(f"{self.uri} did not answer within {self.timeout:g} s.") from error
                if isinstance(error, (ConnectionError, PermissionError)) and not retry:
                    raise
                if not retry:
                    raise ConnectionError(f"The connection to {self.uri} was lost: {error}.") from error
        raise AssertionError("unreachable")

    def reset(self) -> None:
        """A new episode: the policy forgets this robot, because a session is a connection."""
        self.close()
        self._connect()

    def close(self) -> None:
        """Leave; `infer` would connect again."""
        self._socket = None
        self._open.close()

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    def _connected(self) -> Any:
        if self._socket is None:
            self._connect()
        return self._socket

    def _connect(self) -> None:
        for attempt in range(self.attempts):
            try:
                self._socket = self._open.enter_context(self._handshake())
                self.metadata: dict[str, Any] = self._receive()  # the server speaks first
                return
            except (InvalidHandshake, OSError, WebSocketException) as error:
                self.close()
                status = error.response.status_code if isinstance(error, InvalidStatus) else None
                if status in (401, 403):
                    raise PermissionError(f"{self.uri} refused the API key (HTTP {status}).") from error
                fatal = isinstance(error, ssl.SSLError) or (status is not None and status not in TEMPORARY)
                if fatal or attempt + 1 == self.attempts:
                    raise ConnectionError(f"{self.uri} cannot be reached ({error}); is the server running?") from error
                time.sleep(min(self.pause * 2**attempt, LONGEST_PAUSE))

    def _handshake(self) -> Any:
        return open_websocket(
            self.uri,
            ssl=self._tls,
            compression=None,
            max_size=None,
            additional_headers=self._headers,
            open_timeout=self.timeout,
            close_timeout=GOODBYE,
        )

    def _receive(self) -> dict[str, Any]:
        answer = self._socket.recv(timeout=self.timeout)
        if isinstance(answer, str):  # openpi's protocol: errors are text frames
            raise PolicyError(answer)
        return openpi.unpack(answer)

    def _compressed(self, value: Any) -> Any:
        if self.jpeg is None:
            return value
        if isinstance(value, Mapping):
            return {key: self._compressed(item) for key, item in value.items()}
        if isinstance(value, np.ndarray) and is_image(value) and value.shape[2] == 3:
            return encode_image(value, "jpeg", quality=self.jpeg)
        return value


def connect(uri: str, **settings: Any) -> PolicyClient:
    """A `PolicyClient` for the server at `uri`; settings as there."""
    return PolicyClient(uri, **settings)

"""Requests to the platform, each bounded in time, size and repetition."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

__all__ = ["Connection", "Limits", "PlatformError", "Refused", "short"]

logger = logging.getLogger(__name__)
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
Show = Callable[[str, Mapping[str, Any]], None]


class PlatformError(RuntimeError):
    """The platform could not be reached, or what it answered cannot be used."""


class Refused(PlatformError):
    """The platform answered, and said no: asking the same again is of no use."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may take. `seconds`: for one attempt as a whole; `pause`: seconds between attempts."""

    seconds: float = 15.0
    attempts: int = 3
    pause: float = 1.0
    bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.attempts < 1 or self.pause < 0 or self.bytes < 1:
            raise ValueError(f"Requests need time, at least one attempt and some bytes; given {self}.")


class Connection:
    """HTTP to one address as one user. `show`: takes (request, contents) of what would change something, and nothing
    of it is sent.

    Raises (every method):
        PlatformError: no usable answer after all attempts. Refused: the answer is no.
    """

    def __init__(self, address: str, user: str, *, limits: Limits | None = None, show: Show | None = None) -> None:
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"The platform's address is {address!r}; expected http://... or https://...")
        self.limits, self.show = limits or Limits(), show
        headers = {"x-user-id": user}
        self._http = httpx2.Client(base_url=address.rstrip("/"), headers=headers, timeout=self.limits.seconds)

    def close(self) -> None:
        """Close the sockets."""
        self._http.close()

    def get(self, path: str, **params: Any) -> bytes:
        """The bytes at an address."""
        return self._content("GET", path, self.limits.attempts, {"params": params})

    def get_json(self, path: str) -> Any:
        """The JSON at an address."""
        return _json(f"GET {path}", self.get(path))

    def get_mapping(self, path: str) -> dict[str, Any]:
        """The JSON object at an address."""
        answer = self.get_json(path)
        if not isinstance(answer, dict):
            raise PlatformError(f"GET {path}: expected an object, the platform sent {short(answer)}.")
        return answer

    def post(self, path: str, contents: Mapping[str, Any], *, attempts: int | None = None, **params: Any) -> None:
        """Send something that changes the platform; Refused where its `result` is a no."""
        request = f"POST {path}"
        if self.show is not None:
            self.show(str(httpx2.URL(path, params=params)) if params else path, contents)
            return
        body = json.dumps(contents, allow_nan=False).encode()
        sent = {"content": body, "headers": {"content-type": "application/json"}, "params": params}
        answer = _json(request, self._content("POST", path, attempts or self.limits.attempts, sent))
        if isinstance(answer, dict) and not _succeeded(answer.get("result", True)):
            raise Refused(f"{request}: the platform refused it: {answer.get('message') or answer['result']}")

    def _content(self, method: str, path: str, attempts: int, sent: Mapping[str, Any]) -> bytes:
        """The bytes of an answer. Network errors and the server's own are tried again, a no is not."""
        for attempt in range(1, attempts + 1):
            try:
                return self._once(method, path, sent)
            except Refused:
                raise
            except (httpx2.HTTPError, httpx2.InvalidURL, PlatformError) as error:
                reason = str(error) or type(error).__name__
                logger.warning("%s %s, attempt %d of %d: %s", method, path, attempt, attempts, reason)
                if attempt == attempts:
                    tried = "" if attempts == 1 else f" in {attempts} attempts"
                    raise PlatformError(f"{method} {path} had no answer{tried}: {reason}") from error
                time.sleep(self.limits.pause)
        raise AssertionError

    def _once(self, method: str, path: str, sent: Mapping[str, Any]) -> bytes:
        """One attempt. The deadline holds for the whole answer: one that trickles in would never time out."""
        deadline, body = time.monotonic() + self.limits.seconds, bytearray()
        with self._http.stream(method, path, **sent) as answer:
            for part in answer.iter_bytes():
                body += part
                if len(body) > self.limits.bytes:
                    raise Refused(f"{method} {path}: the answer is larger than {self.limits.bytes} bytes; refused.")
                if time.monotonic() > deadline:
                    raise PlatformError(f"the answer took longer than {self.limits.seconds:g} s")
        if answer.status_code in TRY_AGAIN:
            raise PlatformError(f"status {answer.status_code}: {short(bytes(body))}")
        if answer.status_code in (401, 403):
            raise Refused(
                f"{method} {path}: the platform does not accept this user token (status {answer.status_code})."
            )
        if not answer.is_success:
            raise Refused(f"{method} {path}: refused with status {answer.status_code}: {short(bytes(body))}")
        return bytes(body)


def _json(request: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PlatformError(f"{request}: expected JSON, the platform sent {short(content)}.") from error


def _succeeded(result: Any) -> bool:
    """Whether `result` is one of the ways to say yes; 0 is a status code, False is a no."""
    if isinstance(result, str):
        return result.strip().lower() in ("success", "succeeded", "ok", "true")
    return result is True or (result == 0 and result is not False)


def short(value: Any) -> str:
    """The beginning of a value, on one line, for a sentence."""
    text = value[:500].decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    text = " ".join(text.split())
    return text[:120] + "..." if len(text) > 120 else text or "nothing"

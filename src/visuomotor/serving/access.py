"""Who may connect: API keys, and no web pages."""

import base64
import binascii
import hmac
from collections.abc import Iterable, Mapping

__all__ = ["authorised", "from_a_web_page"]


def authorised(header: str | None, keys: Iterable[str]) -> bool:
    """Whether an Authorization header holds one of the keys; always, where there are none.

    "Api-Key KEY", as openpi's clients send it, or "Basic" with the key as password, which any WebSocket client sends
    for ws://robot:KEY@host. Every key is compared, each in constant time, so that timing tells nothing about them.
    """
    known = [key.encode() for key in keys]
    if not known:
        return True
    shown = _shown_key(header or "")
    return any([hmac.compare_digest(shown, key) for key in known])  # a list: no short cut at the first that fits


def from_a_web_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that a page of some site asks; a page must not drive the robot of who looks at it."""
    return "Origin" in headers or headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")


def _shown_key(header: str) -> bytes:
    scheme, _, value = header.strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "api-key":
        return value.encode(errors="replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""

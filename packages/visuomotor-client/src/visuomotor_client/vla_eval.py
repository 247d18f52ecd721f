"""vla-eval's wire format, version 1: msgpack maps {"type", "payload", "seq", "timestamp"}, one in each binary frame.

Arrays are {"__ndarray__": true, "data", "dtype", "shape"} with keys that are texts, so this is not openpi's format;
images uint8[h, w, c] may come as PNG, JPEG or raw bytes (images.py).
"""

import time
from dataclasses import dataclass, field
from typing import Any, Optional, cast

import msgpack
import numpy as np

from visuomotor_client.arrays import read_array, read_dtype
from visuomotor_client.images import KEY as IMAGE
from visuomotor_client.images import decode_image, encode_image, is_image

PROTOCOL_VERSION = 1
TYPES = ("hello", "observation", "action", "episode_start", "episode_end", "error")
KINDS = "biuf"  # bool, integers, floats
UNREADABLE = (ValueError, TypeError, KeyError, OverflowError, RecursionError, msgpack.UnpackException)


class MalformedMessage(ValueError):
    """A frame that is no message; `seq` is its number as far as it could be read, else 0."""

    def __init__(self, text: str, seq: int = 0) -> None:
        super().__init__(text)
        self.seq = seq


@dataclass(frozen=True)
class Message:
    """One frame. An answer carries the `seq` of what it answers."""

    type: str
    payload: dict[str, Any]
    seq: int = 0
    timestamp: float = field(default_factory=time.time)


def pack(message: Message, *, image_format: Optional[str] = None) -> bytes:
    """A message as bytes; images are encoded as `image_format` ("png", "jpeg", "raw"), None sends plain arrays."""

    def encode(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} cannot be sent; send numbers, texts, arrays, lists and maps.")
        if image_format is not None and is_image(value):
            return encode_image(value, image_format)
        if value.dtype.kind not in KINDS:
            raise ValueError(f"Arrays of dtype {value.dtype} cannot be sent; send numbers.")
        return {
            "__ndarray__": True,
            "data": value.tobytes(),
            "dtype": value.dtype.str,
            "shape": list(value.shape),
        }

    frame = {"type": message.type, "payload": message.payload, "seq": message.seq, "timestamp": message.timestamp}
    return cast(bytes, msgpack.packb(frame, default=encode))


def unpack(data: bytes, *, images: bool = True) -> Message:
    """The message in a frame; arrays are read-only. `images`: decode those that are maps, else the maps stay.

    MalformedMessage where the bytes are none of this format.
    """
    try:
        frame = msgpack.unpackb(data, object_hook=_decode_all if images else _decode, ext_hook=_no_extension)
    except UNREADABLE as error:
        raise MalformedMessage(
            f"The message cannot be decoded: {str(error) or type(error).__name__}", _sequence_number(data)
        ) from error
    if not isinstance(frame, dict):
        raise MalformedMessage(f"A message must be a map; {type(frame).__name__} came.")
    seq = frame.get("seq")
    if isinstance(seq, bool) or not isinstance(seq, int):
        raise MalformedMessage("A message's seq must be an integer.")
    missing = [key for key in ("type", "payload", "timestamp") if key not in frame]
    if missing:
        raise MalformedMessage(f"The message lacks {missing}.", seq)
    kind, payload, timestamp = frame["type"], frame["payload"], frame["timestamp"]
    if not isinstance(kind, str) or kind not in TYPES:
        raise MalformedMessage(f"Unknown message type {str(kind)[:40]!r}; known are {list(TYPES)}.", seq)
    if not isinstance(timestamp, (int, float)):
        raise MalformedMessage("A message's timestamp must be a number.", seq)
    if not isinstance(payload, dict):
        raise MalformedMessage(f"A message's payload must be a map; {type(payload).__name__} came.", seq)
    return Message(type=kind, payload=payload, seq=seq, timestamp=float(timestamp))


def _sequence_number(data: bytes) -> int:
    """The number of a frame whose arrays cannot be decoded, so that its sender can be told which it was."""
    try:
        seq = msgpack.unpackb(data)["seq"]
    except (*UNREADABLE, IndexError):
        return 0
    return seq if isinstance(seq, int) else 0


def _decode(value: dict[Any, Any]) -> Any:
    if "__ndarray__" not in value:
        return value
    return read_array(value.get("data"), read_dtype(value.get("dtype"), allowed=KINDS), value.get("shape"))


def _decode_all(value: dict[Any, Any]) -> Any:
    return decode_image(value) if IMAGE in value else _decode(value)


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"msgpack's extension type {code} is not accepted.")

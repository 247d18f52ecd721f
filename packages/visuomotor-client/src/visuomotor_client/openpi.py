"""openpi's wire format: msgpack, with numpy arrays as maps whose marker keys are bytes. Never a pickle.

    array   {b"__ndarray__": True, b"data": bytes, b"dtype": "<f4", b"shape": [2, 3]}
    scalar  {b"__npgeneric__": True, b"data": number, b"dtype": "<f4"}

One addition that openpi's own programs never send: images as maps (images.py), which a server of ours decodes.
"""

from typing import Any, cast

import msgpack
import numpy as np

from visuomotor_client.arrays import read_array, read_dtype
from visuomotor_client.images import KEY as IMAGE
from visuomotor_client.images import decode_image

REFUSED = "VOc"  # raw records, Python objects, complex numbers


def pack(message: Any) -> bytes:
    """`message` (maps, lists, texts, numbers, numpy arrays and scalars) as bytes."""
    return cast(bytes, msgpack.packb(message, default=_encode))


def unpack(data: bytes, *, images: bool = True) -> Any:
    """What `pack` was given; arrays are read-only. `images`: decode those that are maps, else the maps stay.

    Raises:
        ValueError: the bytes are no message of this format, or hold what is not accepted.
    """
    try:
        return msgpack.unpackb(data, object_hook=_decode_all if images else _decode, ext_hook=_no_extension)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise ValueError(f"The message cannot be decoded: {str(error) or type(error).__name__}") from error


def _encode(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{type(value).__name__} cannot be sent; send numbers, texts, arrays, lists and maps.")
    if value.dtype.kind in REFUSED:
        raise ValueError(f"Arrays of dtype {value.dtype} cannot be sent; send numbers.")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": list(value.shape),
        }
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def _decode(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        dtype = read_dtype(value.get(b"dtype"), refused=REFUSED)
        return read_array(value.get(b"data"), dtype, value.get(b"shape"))
    if b"__npgeneric__" in value:
        content = value.get(b"data")
        if not isinstance(content, (bool, int, float, str, bytes)):
            raise ValueError(f"A scalar's data must be a number or text, not {type(content).__name__}.")
        return read_dtype(value.get(b"dtype"), refused=REFUSED).type(content)
    return value


def _decode_all(value: dict[Any, Any]) -> Any:
    return decode_image(value) if IMAGE in value else _decode(value)


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"msgpack's extension type {code} is not accepted.")

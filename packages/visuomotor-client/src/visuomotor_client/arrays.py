"""Arrays out of bytes that a stranger sent: every size is checked before numpy sees it."""

import re
from typing import Any

import numpy as np

DTYPE = re.compile(r"[<>=|]?(bool|u?int\d{1,2}|float\d{1,2}|[biufcSUVOmM]\d{0,9}(\[\w{1,9}\])?)")
MAX_DIMENSIONS = 32


def read_dtype(text: Any, *, refused: str = "", allowed: str = "") -> np.dtype:
    """The dtype that `text` names ("<f4"). Kinds in `refused`, or not in `allowed` if it is given, are a ValueError."""
    if not isinstance(text, str) or not DTYPE.fullmatch(text):
        raise ValueError("An array's dtype must be a short text such as '<f4'.")
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{text!r} is not a numpy dtype.") from error
    if dtype.kind in refused or dtype.hasobject or (allowed and dtype.kind not in allowed):
        raise ValueError(f"Arrays of dtype {text!r} are not accepted; send numbers.")
    return dtype


def read_array(data: Any, dtype: np.dtype, shape: Any) -> np.ndarray:
    """A read-only view of `data` as an array; ValueError unless the bytes are exactly as many as the shape needs."""
    if not isinstance(data, bytes):
        raise ValueError(f"An array's data must be bytes, not {type(data).__name__}.")
    shape = read_shape(shape)
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(data):
        raise ValueError(
            f"An array of shape {list(shape)} and dtype {dtype.str} needs {count * dtype.itemsize} bytes; "
            f"{len(data)} came."
        )
    return np.ndarray(buffer=data, dtype=dtype, shape=shape)


def read_shape(shape: Any) -> tuple[int, ...]:
    """A shape as a tuple; ValueError unless it is a short list of sizes."""
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("An array's shape must be a list of at most 32 sizes.")
    if any(isinstance(size, bool) or not isinstance(size, int) or size < 0 for size in shape):
        raise ValueError("An array's shape must be a list of integers that are not negative.")
    return tuple(shape)

"""Camera images on the wire: {"__image__": true, "format": "png" | "jpeg" | "raw", "data", "shape"[, "dtype"]}.

PNG and JPEG need Pillow (pip install visuomotor-client[jpeg]).
"""

import io
from typing import Any

import numpy as np

from visuomotor_client.arrays import read_array, read_dtype, read_shape

KEY = "__image__"
MAX_PIXELS = 4096 * 4096
CODERS = {"png": "PNG", "jpeg": "JPEG"}


def is_image(array: np.ndarray) -> bool:
    """Whether an array looks like an image: uint8[h, w, c] with 1, 3 or 4 channels."""
    return array.ndim == 3 and array.dtype == np.uint8 and array.shape[2] in (1, 3, 4) and array.size > 0


def encode_image(image: np.ndarray, format: str = "png", *, quality: int = 95) -> dict[str, Any]:
    """An image uint8[h, w, c] as a map. JPEG is lossy (`quality`) and wants three channels."""
    if not is_image(image):
        raise ValueError(f"Expected an image uint8[h, w, 1 | 3 | 4]; given {image.dtype}{list(image.shape)}.")
    if format == "raw":
        data = image.tobytes()
        return {KEY: True, "format": "raw", "data": data, "dtype": image.dtype.str, "shape": list(image.shape)}
    if format not in CODERS:
        raise ValueError(f"Unknown image format {format!r}; choose png, jpeg or raw.")
    if format == "jpeg" and image.shape[2] != 3:
        raise ValueError(f"JPEG wants three channels and the image has {image.shape[2]}; choose png or raw.")
    picture = _pillow().fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    out = io.BytesIO()
    picture.save(out, format=CODERS[format], **({"quality": quality} if format == "jpeg" else {}))
    return {KEY: True, "format": format, "data": out.getvalue(), "shape": list(image.shape)}


def decode_image(message: dict[str, Any]) -> np.ndarray:
    """The image of a map. ValueError where it is malformed, or larger than it says or than 4096 x 4096."""
    format, data = message.get("format"), message.get("data")
    if format == "raw":
        return read_array(data, read_dtype(message.get("dtype", "|u1"), allowed="biuf"), message.get("shape"))
    if not isinstance(format, str) or format not in CODERS or not isinstance(data, bytes):
        raise ValueError("An image needs a format (png, jpeg or raw) and its data as bytes.")
    shape = read_shape(message.get("shape"))
    pillow = _pillow()
    try:
        with pillow.open(io.BytesIO(data), formats=[CODERS[format]]) as picture:
            width, height = picture.size
            if shape[:2] != (height, width) or width * height > MAX_PIXELS:  # before a single pixel is decoded
                raise ValueError(f"An image said to be {list(shape)} is {height} x {width}.")
            array = np.asarray(picture)
    except (OSError, SyntaxError, EOFError, pillow.DecompressionBombError) as error:
        raise ValueError(f"An image cannot be decoded as {format}: {error}.") from error
    if array.size != int(np.prod(shape)) or array.dtype != np.uint8:
        raise ValueError(f"An image said to be uint8{list(shape)} is {array.dtype}{list(array.shape)}.")
    return array.reshape(shape)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("PNG and JPEG images need Pillow: pip install visuomotor-client[jpeg]") from error
    return Image

"""Pictures and videos as data URLs, so that a report needs no file beside it."""

import base64
import io
import tempfile
from pathlib import Path

import av
from markupsafe import Markup
from PIL import Image

from visuomotor.training.plot import plot_metrics


def data_url(kind: str, content: bytes) -> str:
    """`content` of a MIME type as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(picture: Image.Image, quality: int = 82) -> str:
    """A picture as the data URL of a JPEG: photographs of scenes are a third of their PNG's size."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=quality, optimize=True)
    return data_url("image/jpeg", buffer.getvalue())


def image_file(path: Path) -> str:
    """A picture file as a data URL."""
    with Image.open(path) as picture:
        return jpeg(picture)


def first_frame(video: Path) -> str:
    """The first picture of a video as a data URL: what is seen before it plays, and in print."""
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            return jpeg(frame.to_image())
    raise ValueError(f"{video} holds no picture; remove it, or evaluate again with --overwrite.")


def curves(metrics: Path) -> Markup:
    """The learning curves as SVG that goes into a page."""
    with tempfile.TemporaryDirectory() as folder:
        text = plot_metrics(metrics, Path(folder) / "curves.svg").read_text()
    head, rest = text[text.index("<svg") :].split("<metadata>", 1)
    return Markup(head + rest.split("</metadata>", 1)[1])

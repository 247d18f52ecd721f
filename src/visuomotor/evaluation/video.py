"""Videos of rollouts: all cameras side by side, what was asked, what the policy says it is doing, how it ended."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

PANEL = 256  # pixels of one camera's picture in the video
FRAMES_PER_SECOND = 10
HOLD_SECONDS = 1.0  # the last picture stays, with the outcome
MARK, PATH = (255, 214, 10), (23, 190, 207)
GOOD, BAD, PAPER, INK, SOFT = (38, 128, 66), (176, 48, 48), (250, 250, 248), (24, 24, 24), (110, 110, 110)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One moment of a rollout: cameras {name: uint8[h, w, 3]}, control step, what the policy said then.

    marks: what it pointed at, {"camera": name, "boxes": {name: [x1, y1, x2, y2]}, "trace": [[x, y]]}, 0-1000.
    """

    images: Mapping[str, np.ndarray]
    step: int
    text: str = ""
    marks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What is written on every picture of a video. `heading` names the condition, `outcome` the banner's words."""

    heading: str
    instruction: str
    success: bool
    outcome: str


def stride(control_hz: float) -> int:
    """Control steps between two pictures, so that the video plays in real time at about 10 pictures a second."""
    return max(1, round(control_hz / FRAMES_PER_SECOND))


def draw(frame: Frame, caption: Caption, *, ended: bool = False) -> np.ndarray:
    """One picture uint8[h, w, 3] with even sides: words above, cameras side by side, on the last one the outcome."""
    small, normal = _font(12), _font(15)
    panels = [
        Image.fromarray(image).resize((PANEL, PANEL), Image.Resampling.BICUBIC) for image in frame.images.values()
    ]
    width = PANEL * max(len(panels), 1)
    lines = textwrap.wrap(caption.instruction or "(no instruction)", width=max(20, width // 8))[:2]
    top = 26 + 20 * len(lines)
    picture = Image.new("RGB", (width, top + PANEL + 26), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((6, 4), f"{caption.heading}   step {frame.step}", fill=SOFT, font=small)
    for row, line in enumerate(lines):
        pen.text((6, 20 + 20 * row), line, fill=INK, font=normal)
    for column, (name, panel) in enumerate(zip(frame.images, panels, strict=True)):
        if name == frame.marks.get("camera"):
            _draw_marks(panel, frame.marks)
        picture.paste(panel, (PANEL * column, top))
        pen.text(
            (PANEL * column + 6, top + PANEL - 17), name, fill="white", font=small, stroke_width=1, stroke_fill=INK
        )
    if ended:
        pen.rectangle((0, top + PANEL, width, top + PANEL + 26), fill=GOOD if caption.success else BAD)
        pen.text((6, top + PANEL + 4), caption.outcome[: width // 8], fill="white", font=normal)
    elif frame.text:
        pen.text((6, top + PANEL + 5), f"policy: {frame.text}"[: width // 7], fill=INK, font=small)
    even = picture.size[0] // 2 * 2, picture.size[1] // 2 * 2
    return np.asarray(picture.crop((0, 0, *even)))


def _draw_marks(panel: Image.Image, marks: Mapping[str, Any]) -> None:
    """Boxes with their names, and the path that the policy wants the hand to take."""
    pen, scale = ImageDraw.Draw(panel), (PANEL - 1) / 1000
    for name, (x1, y1, x2, y2) in marks.get("boxes", {}).items():
        left, right, top, bottom = (v * scale for v in (*sorted((x1, x2)), *sorted((y1, y2))))
        pen.rectangle((left, top, right, bottom), outline=MARK, width=2)
        pen.text((left, max(top - 14, 0)), name, fill=MARK, font=_font(11), stroke_width=1, stroke_fill=INK)
    points = [(x * scale, y * scale) for x, y in marks.get("trace", [])]
    if len(points) > 1:
        pen.line(points, fill=PATH, width=2)
    if points:
        x, y = points[-1]
        pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=PATH)


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def write_video(path: Path, frames: Sequence[Frame], caption: Caption, control_hz: float) -> None:
    """Write frames taken every `stride(control_hz)` steps as H.264 (yuv420p, index first) that browsers play."""
    if not frames:
        raise ValueError(f"No frames to write to {path}.")
    pictures = [draw(frame, caption) for frame in frames[:-1]] + [draw(frames[-1], caption, ended=True)]
    rate = Fraction(control_hz / stride(control_hz)).limit_denominator(1000)
    pictures += [pictures[-1]] * round(HOLD_SECONDS * float(rate))
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "23", "preset": "veryfast"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_sheet(path: Path, frames: Sequence[Frame], caption: Caption, columns: int = 4, rows: int = 2) -> None:
    """Write up to columns * rows pictures, evenly spread over the rollout, as one PNG."""
    if not frames:
        raise ValueError(f"No frames to write to {path}.")
    chosen = np.unique(np.linspace(0, len(frames) - 1, columns * rows).round().astype(int))
    pictures = [draw(frames[i], caption, ended=bool(i == len(frames) - 1)) for i in chosen]
    height, width = pictures[0].shape[:2]
    columns = min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), PAPER)
    for place, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (place % columns * width, place // columns * height))
    sheet.reduce(2).save(path)

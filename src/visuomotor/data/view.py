"""Draw episodes with their annotations (boxes, the hand's trace, sub-task, progress) on a sheet or a video."""

from collections.abc import Mapping
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from visuomotor.contract import Annotation
from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.lerobot.video import rate

__all__ = ["annotated_video", "contact_sheet", "draw_frame"]

PANEL = 224  # pixels of one camera's picture
CAPTION = 34
COLOURS = ((214, 39, 40), (31, 119, 180), (44, 160, 44), (148, 103, 189), (255, 127, 14), (23, 190, 207))
TRACE, INK, PAPER, BAR = (255, 214, 10), (24, 24, 24), (250, 250, 248), (38, 128, 66)
_BATCH = 64


def draw_frame(
    images: Mapping[str, np.ndarray],
    annotation: Annotation | None = None,
    traces: Mapping[str, np.ndarray] | None = None,
    label: str = "",
) -> Image.Image:
    """Cameras {name: uint8[h, w, 3]} side by side, PANEL high, with the annotation drawn in and a caption below.

    traces: {camera: [k, 2]} future points of the hand, 0-1000 of the picture, nearest first.
    """
    panels = [_panel(camera, image, annotation, (traces or {}).get(camera)) for camera, image in images.items()]
    width = sum(panel.width for panel in panels)
    picture = Image.new("RGB", (width + width % 2, PANEL + CAPTION), PAPER)
    left = 0
    for panel in panels:
        picture.paste(panel, (left, 0))
        left += panel.width
    pen, small = ImageDraw.Draw(picture), ImageFont.load_default(11)
    pen.text((4, PANEL + 4), label, fill=(110, 110, 110), font=small)
    if annotation is not None:
        signs = [name for name, on in (("contact", annotation.contact), ("switch", annotation.gripper_switch)) if on]
        if signs:
            text = " ".join(signs)
            pen.text((width - 4 - pen.textlength(text, font=small), PANEL + 4), text, fill=COLOURS[0], font=small)
        pen.text((4, PANEL + 17), annotation.subtask, fill=INK, font=ImageFont.load_default(12))
        if np.isfinite(annotation.progress):
            done = round(width * min(max(annotation.progress, 0.0), 1.0))
            pen.rectangle((0, PANEL, width, PANEL + 3), fill=(220, 220, 216))
            pen.rectangle((0, PANEL, done, PANEL + 3), fill=BAR)
    return picture


def contact_sheet(dataset: EpisodeSource, episode: int, count: int = 12) -> Image.Image:
    """`count` frames of an episode, evenly spaced from first to last, with their annotations, below its instruction."""
    if count < 1:
        raise ValueError(f"A contact sheet needs at least one frame, not {count}.")
    rows = _rows(dataset, episode)
    picked = np.unique(np.linspace(rows.start, rows.stop - 1, count).round().astype(np.int64))
    frames = _draw(dataset, rows, picked)
    width, height = frames[0].size
    columns = max(1, min(len(frames), round(1400 / width)))
    lines = -(-len(frames) // columns)
    top = 24
    sheet = Image.new("RGB", (columns * width, top + lines * height), PAPER)
    title = f"episode {episode}: {dataset.instruction(episode) or '(no instruction)'}"
    ImageDraw.Draw(sheet).text((4, 4), title, fill=INK, font=ImageFont.load_default(14))
    for index, frame in enumerate(frames):
        sheet.paste(frame, (index % columns * width, top + index // columns * height))
    return sheet


def annotated_video(dataset: EpisodeSource, episode: int, path: Path | str) -> None:
    """Write all frames of an episode with their annotations as an mp4 (h264) at the data set's frame rate."""
    rows, stream = _rows(dataset, episode), None
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        for start in range(rows.start, rows.stop, _BATCH):  # a long episode does not fit into memory
            for picture in _draw(dataset, rows, np.arange(start, min(start + _BATCH, rows.stop))):
                if stream is None:
                    stream = container.add_stream("libx264", rate=rate(dataset.fps), options={"crf": "20"})
                    stream.width, stream.height, stream.pix_fmt = *picture.size, "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        assert stream is not None, "an episode has at least one frame"
        container.mux(stream.encode())


def _rows(dataset: EpisodeSource, episode: int) -> slice:
    rows = dataset.episode_slice(episode)
    if rows.start == rows.stop:  # its neighbours' pictures are not its own
        raise ValueError(f"Episode {episode} of {dataset.root} has no frames, so there is nothing to draw.")
    return rows


def _draw(dataset: EpisodeSource, rows: slice, picked: np.ndarray) -> list[Image.Image]:
    """Pictures of the picked rows of one episode."""
    if not dataset.cameras:
        raise ValueError(f"{dataset.root} has no camera, so there is nothing to draw.")
    images = {camera: dataset.frames(camera, picked) for camera in dataset.cameras}
    annotations = dataset.annotations(picked) or [None] * len(picked)
    traces = {c: dataset.traces(c, picked) for c in dataset.cameras} if dataset.has("trace") else {}
    return [
        draw_frame(
            {camera: frames[i] for camera, frames in images.items()},
            annotations[i],
            {camera: points[i] for camera, points in traces.items()},
            f"frame {row - rows.start} of {rows.stop - rows.start}, {(row - rows.start) / dataset.fps:.2f} s",
        )
        for i, row in enumerate(picked)
    ]


def _panel(camera: str, image: np.ndarray, annotation: Annotation | None, trace: np.ndarray | None) -> Image.Image:
    height, width = image.shape[:2]
    panel = Image.fromarray(image).resize((round(PANEL * width / height), PANEL), Image.Resampling.BILINEAR)
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(11)
    scale = np.array([panel.width - 1, panel.height - 1]) / 1000
    if annotation is not None:
        for index, (name, box) in enumerate(annotation.boxes.get(camera, {}).items()):
            colour = COLOURS[index % len(COLOURS)]
            x1, y1, x2, y2 = (float(v) for v in np.array(box) * [*scale, *scale])
            pen.rectangle((x1, y1, x2, y2), outline=colour, width=2)
            # Labels of nested boxes would cover each other: odd ones stand below.
            above = (x1 + 3, max(y1 - 13, 0)) if index % 2 == 0 else (x1 + 3, min(y2 + 1, PANEL - 13))
            pen.text(above, name, fill=colour, font=font, stroke_width=1, stroke_fill="white")
    points = [] if trace is None else [(float(x), float(y)) for x, y in trace * scale]
    if annotation is not None and camera in annotation.point:
        x, y = (float(v) for v in np.array(annotation.point[camera]) * scale)
        points.insert(0, (x, y))
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), outline=TRACE, width=2)
    if len(points) > 1:
        pen.line(points, fill=TRACE, width=2)
    pen.text((4, PANEL - 15), camera, fill="white", font=font, stroke_width=1, stroke_fill=INK)
    return panel

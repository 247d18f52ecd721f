"""An episode's annotations as frame columns and back, and the checks an episode must pass to be written."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from visuomotor.contract import Annotation, Embodiment, Episode
from visuomotor.data.lerobot.layout import ANNOTATION_PREFIX

TRACE_POINTS = 25
TRACE_SECONDS = 0.2  # time between two points of a trace


def trace_stride(fps: float) -> int:
    """Frames between two points of a trace."""
    return max(1, round(fps * TRACE_SECONDS))


def future_trace(
    points: Sequence[Mapping[str, tuple[int, int]]], frame: int, stride: int
) -> dict[str, list[list[int]]]:
    """{camera: points of the frames `stride`, 2 `stride`, ... later}, at most 25; near the end, the last frame's."""
    frames = range(frame + stride, len(points), stride)[:TRACE_POINTS] or range(
        max(frame + 1, len(points) - 1), len(points)
    )
    trace: dict[str, list[list[int]]] = {}
    for later in frames:
        for camera, (x, y) in points[later].items():
            trace.setdefault(camera, []).append([int(x), int(y)])
    return trace


def annotation_columns(annotations: Sequence[Annotation], fps: float) -> dict[str, np.ndarray]:
    """Column name -> one value a frame; strings are object arrays. Empty without annotations."""
    if not annotations:
        return {}
    stride = trace_stride(fps)
    points = [a.point for a in annotations]
    values: dict[str, np.ndarray] = {
        "subtask": _strings([a.subtask for a in annotations]),
        "boxes": _strings([_dump(a.boxes) for a in annotations]),
        "trace": _strings([_dump(future_trace(points, i, stride)) for i in range(len(points))]),
        "point": _strings([_dump(p) for p in points]),
        "progress": np.array([a.progress for a in annotations], np.float32),
        "gripper_switch": np.array([a.gripper_switch for a in annotations], bool),
        "contact": np.array([a.contact for a in annotations], bool),
    }
    return {ANNOTATION_PREFIX + key: value for key, value in values.items()}


def parse_annotation(values: Mapping[str, Any]) -> Annotation:
    """The inverse for one frame; what the data set lacks is empty, False, or NaN for progress."""
    boxes = json.loads(values.get("boxes") or "{}")
    point = json.loads(values.get("point") or "{}")
    return Annotation(
        subtask=values.get("subtask") or "",
        boxes={camera: {name: _four(b) for name, b in named.items()} for camera, named in boxes.items()},
        point={camera: (int(p[0]), int(p[1])) for camera, p in point.items()},
        progress=float(values.get("progress", np.nan)),
        gripper_switch=bool(values.get("gripper_switch", False)),
        contact=bool(values.get("contact", False)),
    )


def require_valid(episode: Episode, embodiment: Embodiment, videos: Mapping[str, Path], index: int) -> None:
    """ValueError with what is wrong, if the episode does not fit itself or the embodiment."""
    name = f"Episode {index} ({episode.instruction!r})"
    length = len(episode.actions)
    if not length:
        raise ValueError(f"{name} has no frames; leave it out.")
    for what, array, width in (
        ("state", episode.state, embodiment.state_dim),
        ("actions", episode.actions, embodiment.action_dim),
    ):
        if array.shape != (length, width):
            raise ValueError(
                f"{name}: {what} has shape {list(array.shape)}, but {length} frames of embodiment {embodiment.name!r} "
                f"make {[length, width]}. Give one row a frame, or the right embodiment."
            )
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(
                f"{name}: {what} of frame {row} is not finite ({array[row].tolist()}). Leave the episode out."
            )
    cameras = {c.name for c in embodiment.cameras}
    if set(episode.images) | set(videos) != cameras:
        given = sorted(set(episode.images) | set(videos))
        raise ValueError(f"{name} has cameras {given}, but embodiment {embodiment.name!r} has {sorted(cameras)}.")
    for camera, frames in episode.images.items():
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) != length:
            raise ValueError(
                f"{name}: camera {camera!r} has {frames.dtype}{list(frames.shape)}, expected uint8[{length}, h, w, 3]."
            )
    try:
        json.dumps(episode.info)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: info must be JSON ({error}). Convert its values to plain numbers and text."
        ) from error
    if episode.annotations and len(episode.annotations) != length:
        raise ValueError(
            f"{name} has {len(episode.annotations)} annotations for {length} frames; give one a frame or none."
        )


def _strings(values: list[str]) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=int)


def _four(box: Sequence[float]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (int(v) for v in box)
    return x1, y1, x2, y2

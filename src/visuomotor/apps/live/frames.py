"""What the page shows of one moment, as JSON that a browser understands."""

import base64
import io
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from visuomotor.contract import ActionChunk, Embodiment

__all__ = ["ChunkShown", "Latency", "end_effector_path", "images_shown"]


def images_shown(images: Mapping[str, UInt8[np.ndarray, "h w 3"]], quality: int = 85) -> dict[str, str]:
    """{camera: JPEG as a data URL}."""
    shown = {}
    for name, image in images.items():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        shown[name] = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return shown


def end_effector_path(
    embodiment: Embodiment, actions: Float[np.ndarray, "T A"], state: Float[np.ndarray, "s"]
) -> Float[np.ndarray, "n 3"] | None:
    """Where a chunk leads the (first) end-effector, from where it is now, m; None for actions that are no positions."""
    slices, places = embodiment.action_slices(), embodiment.state_slices()
    component = next((c for c in embodiment.action if c.kind == "position" and len(c.dims) == 3), None)
    measured = next((c for c in embodiment.state if c.kind == "position" and len(c.dims) == 3), None)
    if component is None or measured is None:
        return None
    start, moves = np.asarray(state[places[measured.name]], float), actions[:, slices[component.name]]
    if component.reference == "absolute":
        targets = moves
    else:
        targets = start + (np.cumsum(moves, axis=0) if component.reference == "step" else moves)
    return np.vstack([start, targets])


@dataclass(frozen=True, kw_only=True)
class ChunkShown:
    """A predicted chunk: its actions as curves, what the policy reasoned, what it points at, and where it leads.

    points: the end-effector's way, m; None where actions are no positions.
    """

    chunk: ActionChunk
    points: Float[np.ndarray, "n 3"] | None = None

    def to_json(self, path: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Curves as {name of the dimension: {"values", "low", "high"}}; `path`: where cameras see `points`, 0-1000."""
        chunk, curves = self.chunk, {}
        start = 0
        for component in chunk.embodiment.action:
            for d, dim in enumerate(component.dims):
                values = chunk.actions[:, start + d]
                low = component.low[d] if component.low else float(values.min())
                high = component.high[d] if component.high else float(values.max())
                curves[dim if dim not in curves else f"{component.name} {dim}"] = {
                    "values": [round(float(v), 5) for v in values], "low": low, "high": high,
                }  # fmt: skip
            start += len(component.dims)
        return {
            "text": dict(chunk.text),
            "marks": chunk.extras.get("marks", {}),
            "curves": curves,
            "path": {name: [_seen(point) for point in points] for name, points in path.items()},
        }


def _seen(point: np.ndarray) -> list[float] | None:
    """A place in a picture; None (NaN is no JSON) for one that the camera cannot see."""
    return np.round(point, 1).tolist() if np.isfinite(point).all() else None


class Latency:
    """How long the policy takes, over its last hundred calls."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=100)

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def to_json(self) -> dict[str, float]:
        """The last and the middle one, in milliseconds."""
        if not self._seconds:
            return {}
        return {"last": 1000 * self._seconds[-1], "median": 1000 * float(np.median(self._seconds))}

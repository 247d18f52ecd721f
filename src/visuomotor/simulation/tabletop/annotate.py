"""Boxes and points of what a camera sees, by projecting the geometry that the simulator knows."""

from typing import Any

import numpy as np

from visuomotor.simulation.rendering import mujoco
from visuomotor.simulation.tabletop.scene import BOWL_HEIGHT, BOWL_RADIUS, FURNITURE
from visuomotor.simulation.tabletop.state import SceneState

__all__ = ["Projection", "boxes", "project"]

Box = tuple[int, int, int, int]
MINIMUM_PIXELS = 0.02  # an object's part in view must be this wide or high, as a share of the image
MINIMUM_VISIBLE = 0.3  # this share of its whole box must be in view
MINIMUM_SEEN = 0.25  # and this share of rays to it must meet nothing else first
_DRAWN_GROUPS = np.array([1, 1, 1, 0, 0, 0], dtype=np.uint8)


class Projection:
    """A fixed or moving camera as a map from points in m to image coordinates 0-1 (x right, y down)."""

    def __init__(self, model: Any, camera: str, aspect: float = 1.0) -> None:
        self.camera = model.camera(camera).id
        self._focal = 0.5 / np.tan(np.deg2rad(model.cam_fovy[self.camera]) / 2)
        self._aspect = aspect

    def __call__(self, data: Any, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image coordinates [n, 2] and depths [n] in m (negative behind the camera) of points [n, 3]."""
        local = (points - data.cam_xpos[self.camera]) @ data.cam_xmat[self.camera].reshape(3, 3)
        depth = -local[:, 2]
        safe = np.where(np.abs(depth) < 1e-6, 1e-6, depth)
        x = 0.5 + self._focal / self._aspect * local[:, 0] / safe
        y = 0.5 - self._focal * local[:, 1] / safe
        return np.stack([x, y], axis=1), depth

    def ray(self, data: Any, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the camera stands [3], and the direction [3] in which image coordinates 0-1 [2] look."""
        local = np.array([(place[0] - 0.5) * self._aspect, 0.5 - place[1], -self._focal])
        return data.cam_xpos[self.camera].copy(), data.cam_xmat[self.camera].reshape(3, 3) @ local


def project(projection: Projection, data: Any, point: np.ndarray) -> tuple[int, int]:
    """A point's image coordinates, 0-1000, clipped to the image."""
    places, _ = projection(data, point[None])
    x, y = np.clip(np.round(places[0] * 1000), 0, 1000)
    return int(x), int(y)


def boxes(projection: Projection, state: SceneState) -> dict[str, Box]:
    """Name -> (x1, y1, x2, y2), 0-1000, of every object and piece of furniture that the camera sees.

    A box is that of the whole thing, clipped to the image; what lies mostly outside, or hidden, is left out.
    """
    outlines = {item.name: _object_points(state, k) for k, item in enumerate(state.objects)}
    outlines |= {name: _furniture_points(state, name) for name in FURNITURE}
    places, depth = projection(state.data, np.concatenate(list(outlines.values())))
    ends = np.cumsum([len(points) for points in outlines.values()])
    clipped = [_clipped(p, d) for p, d in zip(np.split(places, ends), np.split(depth, ends), strict=True) if len(p)]
    found = {name: box for name, box in zip(outlines, clipped, strict=True) if box is not None}
    visible = _visible(projection, state, {name: outlines[name] for name in found})
    return {name: box for name, box in found.items() if name in visible}


def _visible(projection: Projection, state: SceneState, outlines: dict[str, np.ndarray]) -> set[str]:
    """Names of the things that enough rays from the camera meet first."""
    if not outlines:
        return set()
    model, data = state.model, state.data
    # Points a little inside of the outline: a ray to them meets the thing's own surface unless something is before it.
    targets = np.stack([p.mean(axis=0) + 0.75 * (p[_eight(len(p))] - p.mean(axis=0)) for p in outlines.values()])
    origin = data.cam_xpos[projection.camera]
    rays = (targets - origin).reshape(-1, 3)
    hits, distances = np.full(len(rays), -1, dtype=np.int32), np.zeros(len(rays))
    mujoco.mj_multiRay(
        model, data, origin, rays.ravel(), _DRAWN_GROUPS, 1, -1, hits, distances, len(rays), mujoco.mjMAXVAL
    )
    bodies = np.where(hits >= 0, model.geom_bodyid[hits], -1).reshape(len(outlines), -1)
    share = (bodies == np.array([[_body(state, name)] for name in outlines])).mean(axis=1)
    return {name for name, seen in zip(outlines, share, strict=True) if seen >= MINIMUM_SEEN}


def _body(state: SceneState, name: str) -> int:
    names = [item.name for item in state.objects]
    return int(state.model.body(f"object{names.index(name)}" if name in names else name).id)


def _eight(count: int) -> np.ndarray:
    return np.linspace(0, count - 1, 8).astype(int)


def _clipped(places: np.ndarray, depth: np.ndarray) -> Box | None:
    if depth.min() < 0.01:
        return None
    low, high = places.min(axis=0), places.max(axis=0)
    low_in, high_in = np.clip(low, 0, 1), np.clip(high, 0, 1)
    size = high_in - low_in
    if size.min() < MINIMUM_PIXELS or size.prod() < MINIMUM_VISIBLE * (high - low).prod():
        return None
    (x1, y1), (x2, y2) = np.round(low_in * 1000), np.round(high_in * 1000)
    return int(x1), int(y1), int(x2), int(y2)


def _object_points(state: SceneState, slot: int) -> np.ndarray:
    return state.objects[slot].geometry.points() @ state.rotation(slot).T + state.position(slot)


def _ring(radius: float, height: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), np.full(20, height)], axis=1)


_BOWL = np.concatenate([_ring(0.82 * BOWL_RADIUS, 0.0), _ring(0.985 * BOWL_RADIUS, BOWL_HEIGHT)])
_BUTTON = np.concatenate([_ring(0.020, -0.008), _ring(0.020, 0.008)])
_DRAWER_FRONT = np.array([[x, y, z] for x in (-0.068, 0.068) for y in (-0.064, -0.056) for z in (0.006, 0.086)])
_HANDLE = np.array([[x, y, z] for x in (-0.017, 0.017) for y in (-0.116, -0.094) for z in (0.031, 0.059)])
_DRAWER_BACK = np.array([[x, 0.051, z] for x in (-0.066, 0.066) for z in (0.011, 0.031)])


def _furniture_points(state: SceneState, name: str) -> np.ndarray:
    if name == "button":
        return _BUTTON + state.data.xpos[state.model.body("button").id]
    if name != "drawer":
        return _BOWL + state.place(name)
    opening, origin = state.drawer_opening, state.data.xpos[state.model.body("drawer").id]
    # What of the drawer's inside has come out of the cabinet is part of what one sees.
    inside = _DRAWER_BACK - np.array([0.0, 0.102 - max(opening - 0.005, 0.0), 0.0])
    inside[:, 1] = np.maximum(-0.056, -0.06 + opening)
    return np.concatenate([_DRAWER_FRONT, _HANDLE, inside]) + origin

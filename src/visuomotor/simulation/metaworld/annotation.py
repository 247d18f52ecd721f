"""Where a task's objects are in a camera's picture, and whether the hand touches them; from simulator state."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from visuomotor.simulation.rendering import mujoco

__all__ = ["ObjectProjector", "geoms_of", "project"]

_EDGE = 4  # of 1000: narrower boxes are not worth naming


def project(model: Any, data: Any, camera: str, points: np.ndarray, turned: bool) -> np.ndarray:
    """World points [n, 3] in metres to picture shares [n, 2] (0-1 from the top left); NaN behind the camera.

    `turned` is for cameras whose pictures are stored rotated by 180 degrees.
    """
    view = data.camera(camera)
    local = (points - view.xpos) @ view.xmat.reshape(3, 3)
    depth = np.where(local[:, 2] < -1e-3, -local[:, 2], np.nan)
    scale = 0.5 / np.tan(np.deg2rad(model.camera(camera).fovy) / 2)
    shares = np.stack([0.5 + scale * local[:, 0] / depth, 0.5 - scale * local[:, 1] / depth], axis=1)
    return 1.0 - shares if turned else shares


class ObjectProjector:
    """Boxes and contacts of named objects, each the drawn geometry of one body and the bodies below it, or one geom.

    Boxes are those of the whole object clipped to the picture, also where something hides part of it.
    """

    def __init__(self, model: Any, objects: Mapping[str, str]) -> None:
        self.model = model
        self._points = {name: _surface(model, body) for name, body in objects.items()}
        self._object_geoms = np.concatenate([geoms_of(model, body) for body in objects.values()])
        self._hand_geoms = geoms_of(model, "hand")

    def boxes(self, data: Any, camera: str, turned: bool) -> dict[str, tuple[int, int, int, int]]:
        """{object: (x1, y1, x2, y2)} in 0-1000 of the picture, of the objects that are in view."""
        found = {}
        for name, parts in self._points.items():
            world = [data.geom_xpos[g] + local @ data.geom_xmat[g].reshape(3, 3).T for g, local in parts]
            pixels = project(self.model, data, camera, np.concatenate(world), turned)
            pixels = pixels[np.isfinite(pixels).all(axis=1)]
            if not len(pixels):
                continue
            low, high = np.clip([pixels.min(0), pixels.max(0)], 0, 1) * 1000
            if (high - low).min() >= _EDGE:
                found[name] = tuple(int(v) for v in np.round([*low, *high]))
        return found

    def contact(self, data: Any) -> bool:
        """True while the hand or a finger touches one of the objects."""
        pairs = data.contact.geom
        hand, thing = np.isin(pairs, self._hand_geoms), np.isin(pairs, self._object_geoms)
        return bool(((hand[:, 0] & thing[:, 1]) | (hand[:, 1] & thing[:, 0])).any())


def geoms_of(model: Any, name: str) -> np.ndarray:
    """Ids of the geoms of the named body and of the bodies below it, or of the one geom of that name."""
    if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name) < 0:
        return np.array([model.geom(name).id])
    inside = np.zeros(model.nbody, bool)
    inside[model.body(name).id] = True
    for child in range(1, model.nbody):  # parents come before their children
        inside[child] |= inside[model.body_parentid[child]]
    return np.flatnonzero(inside[model.geom_bodyid])


def _surface(model: Any, name: str) -> list[tuple[int, np.ndarray]]:
    """Points [n, 3] that span each drawn geom of the object, in the geom's frame."""
    parts = []
    for geom in geoms_of(model, name):
        if model.geom_group[geom] > 2 or model.geom_rgba[geom, 3] == 0:  # not drawn by default
            continue
        mesh = model.geom_dataid[geom]
        if mesh >= 0:
            start, count = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
            parts.append((int(geom), _extreme(model.mesh_vert[start : start + count])))
        else:
            centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
            corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3)
            parts.append((int(geom), centre + corners * half))
    return parts


def _extreme(vertices: np.ndarray, directions: int = 200) -> np.ndarray:
    """The vertices that are outermost in some of evenly spread directions: enough for a box from any side."""
    index = np.arange(directions) + 0.5
    height, angle = 1 - 2 * index / directions, index * np.pi * (1 + 5**0.5)
    radius = np.sqrt(1 - height**2)
    spread = np.stack([radius * np.cos(angle), radius * np.sin(angle), height])
    return vertices[np.unique(np.argmax(vertices @ spread, axis=0))].astype(np.float64)

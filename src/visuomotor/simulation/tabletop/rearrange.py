"""What a bystander does to the scene: point at an object in a picture, and put it somewhere else on the table."""

from typing import Any

import numpy as np

from visuomotor.simulation.rendering import mujoco
from visuomotor.simulation.tabletop.annotate import Projection
from visuomotor.simulation.tabletop.state import SceneState, set_pose

__all__ = ["move_object", "on_table"]

Box = tuple[int, int, int, int]
REACH = np.array([[-0.25, -0.22], [0.25, 0.10]])  # where things may be put: low and high x, y, m
DROP = 0.012  # m above the place, so that nothing starts inside of something
SETTLING = 75  # physics steps


def on_table(projection: Projection, data: Any, point: tuple[float, float], height: float) -> np.ndarray:
    """The place x, y (m) at a height that appears at image coordinates 0-1000 of a camera."""
    origin, direction = projection.ray(data, np.array(point) / 1000)
    return (origin + direction * (height - origin[2]) / min(direction[2], -1e-6))[:2]


def move_object(
    state: SceneState,
    projection: Projection,
    boxes: dict[str, Box],
    start: tuple[float, float],
    end: tuple[float, float],
) -> str:
    """Take the object seen at `start` and put it where `end` is seen (0-1000 of the image); its name.

    Raises:
        ValueError: there is no object at `start`, the fingers touch it, or there is no room at `end`.
    """
    names = [item.name for item in state.objects]
    hit = [name for name in names if name in boxes and _inside(boxes[name], start)]
    if not hit:
        raise ValueError(f"There is no object that can be moved there; in view are {', '.join(names)}.")
    name = min(hit, key=lambda n: (boxes[n][2] - boxes[n][0]) * (boxes[n][3] - boxes[n][1]))
    slot = names.index(name)
    if state.touching(slot):
        raise ValueError(f"The robot touches the {name}; wait, or start a new scene.")
    shape = state.objects[slot].geometry
    place = np.clip(on_table(projection, state.data, end, shape.half_height), *REACH)
    for other, item in enumerate(state.objects):
        room = shape.radius + item.geometry.radius
        if other != slot and np.linalg.norm(state.position(other)[:2] - place) < room:
            raise ValueError(f"There is no room for the {name}: the {item.name} is in the way.")
    set_pose(state.model, state.data, slot, np.append(place, shape.half_height + DROP))
    state.rest(slot)
    for _ in range(SETTLING):
        mujoco.mj_step(state.model, state.data)
    mujoco.mj_forward(state.model, state.data)
    return name


def _inside(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]

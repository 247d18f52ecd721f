"""The movable objects: shapes and colours by name, and how an object slot of the compiled model becomes one of them.

The model is compiled once with anonymous slots; a scenario only rewrites their sizes, masses and colours, so that a
reset costs microseconds and never touches the graphics context.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from visuomotor.simulation.rendering import mujoco

__all__ = ["COLOURS", "SHAPES", "Object", "Shape", "hide_slot", "set_slot", "slot_xml"]

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "green": (0.10, 0.62, 0.16),
    "blue": (0.10, 0.25, 0.90),
    "yellow": (0.96, 0.83, 0.08),
    "orange": (0.98, 0.48, 0.05),
    "purple": (0.50, 0.12, 0.72),
    "white": (0.97, 0.97, 0.97),
    "cyan": (0.10, 0.80, 0.85),
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A primitive standing upright: half sizes in m (cylinders: radius, radius, half height), mass in kg.

    `top` is the grey value of a smaller disc drawn on the top face (a cup's dark opening, a can's bright lid).
    """

    cylinder: bool
    size: tuple[float, float, float]
    mass: float
    top: float | None = None

    @property
    def half_height(self) -> float:
        return self.size[2]

    @property
    def radius(self) -> float:
        """Radius of the smallest upright cylinder around the shape, m."""
        return self.size[0] if self.cylinder else float(np.hypot(self.size[0], self.size[1]))

    def points(self) -> np.ndarray:
        """Points float64[n, 3] in the object's frame whose hull contains the shape."""
        if not self.cylinder:
            return np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * np.array(self.size)
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        ring = np.stack([np.cos(angle) * self.size[0], np.sin(angle) * self.size[0]], axis=1)
        return np.concatenate([np.column_stack([ring, np.full(16, z)]) for z in (-self.size[2], self.size[2])])


SHAPES: dict[str, Shape] = {
    "block": Shape(cylinder=False, size=(0.021, 0.021, 0.021), mass=0.06),
    "disc": Shape(cylinder=True, size=(0.025, 0.025, 0.009), mass=0.05),
    "cup": Shape(cylinder=True, size=(0.021, 0.021, 0.034), mass=0.06, top=0.05),
    "can": Shape(cylinder=True, size=(0.0235, 0.0235, 0.023), mass=0.06, top=0.75),
    "bar": Shape(cylinder=False, size=(0.0165, 0.044, 0.0165), mass=0.06),
}


@dataclass(frozen=True, kw_only=True)
class Object:
    """One movable object of a scene."""

    colour: str
    shape: str

    @property
    def name(self) -> str:
        """E.g. "red block"."""
        return f"{self.colour} {self.shape}"

    @property
    def geometry(self) -> Shape:
        return SHAPES[self.shape]


def slot_xml(index: int) -> str:
    """MJCF of one object slot, parked far below the table until `set_slot` gives it a shape."""
    return f"""
    <body name="object{index}" pos="{index} 0 -5">
      <freejoint name="object{index}"/>
      <inertial pos="0 0 0" mass="0.06" diaginertia="2e-5 2e-5 2e-5"/>
      <geom name="object{index}" class="object" type="box" size=".02 .02 .02"/>
      <geom name="object{index}_top" class="picture" type="cylinder" size=".015 .001" pos="0 0 .02"/>
    </body>"""


def set_slot(model: Any, index: int, item: Object) -> None:
    """Give slot `index` the shape and colour of `item`. Call `mujoco.mj_setConst` after the last slot."""
    shape = item.geometry
    body, geom, top = _ids(model, index)
    size = np.array(shape.size)
    kind = mujoco.mjtGeom.mjGEOM_CYLINDER if shape.cylinder else mujoco.mjtGeom.mjGEOM_BOX
    model.geom_type[geom] = int(kind)
    model.geom_size[geom] = (size[0], size[2], 0.0) if shape.cylinder else size
    model.geom_aabb[geom] = (0.0, 0.0, 0.0, *size)
    model.geom_rbound[geom] = np.hypot(size[0], size[2]) if shape.cylinder else np.linalg.norm(size)
    model.geom_rgba[geom] = (*COLOURS[item.colour], 1.0)
    model.geom_contype[geom] = model.geom_conaffinity[geom] = 1
    grey = shape.top if shape.top is not None else 0.0
    model.geom_rgba[top] = (grey, grey, grey, 0.0 if shape.top is None else 1.0)
    model.geom_size[top] = (0.8 * size[0], 0.0006, 0.0)
    model.geom_pos[top] = (0.0, 0.0, size[2])
    model.body_mass[body] = shape.mass
    x2, y2, z2 = size**2
    if shape.cylinder:
        inertia = (x2 / 4 + z2 / 3, x2 / 4 + z2 / 3, x2 / 2)
    else:
        inertia = ((y2 + z2) / 3, (x2 + z2) / 3, (x2 + y2) / 3)
    model.body_inertia[body] = shape.mass * np.array(inertia)


def hide_slot(model: Any, index: int) -> None:
    """Make an unused slot invisible and untouchable."""
    _, geom, top = _ids(model, index)
    model.geom_contype[geom] = model.geom_conaffinity[geom] = 0
    model.geom_rgba[geom, 3] = model.geom_rgba[top, 3] = 0.0


def _ids(model: Any, index: int) -> tuple[int, int, int]:
    return model.body(f"object{index}").id, model.geom(f"object{index}").id, model.geom(f"object{index}_top").id

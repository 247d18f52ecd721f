"""The scene's exact state in the words of the tasks: where objects are, what the fingers touch, what is open."""

from typing import Any

import numpy as np

from visuomotor.simulation.rendering import mujoco
from visuomotor.simulation.tabletop.arm import FINGER_TRAVEL, HOME
from visuomotor.simulation.tabletop.objects import Object
from visuomotor.simulation.tabletop.scene import HANDLE

__all__ = ["SceneState"]


class SceneState:
    """A view of MuJoCo's data after `mj_forward`. Positions in m in the base frame."""

    def __init__(self, model: Any, data: Any, slots: int) -> None:
        self.model, self.data = model, data
        self.objects: tuple[Object, ...] = ()
        self.start = np.zeros((0, 3))  # object positions at the start of the episode
        self.eef_start = HOME.copy()
        self._bodies = np.array([model.body(f"object{k}").id for k in range(slots)])
        self._geoms = np.array([model.geom(f"object{k}").id for k in range(slots)])
        self._dofs = np.array([model.joint(f"object{k}").dofadr[0] for k in range(slots)])
        self._fingers = [
            [model.geom(f"finger_{side}_{part}").id for part in ("tip", "mid", "top")] for side in ("left", "right")
        ]
        self._handle = model.geom("handle").id
        self._drawer, self._button = model.joint("drawer").qposadr[0], model.joint("button").qposadr[0]
        self._finger_qpos = np.array([model.joint(n).qposadr[0] for n in ("finger_left", "finger_right")])
        self._site = model.site("tcp").id

    def index(self, colour: str | None, shape: str | None) -> int:
        """The slot of the object with these words."""
        for k, item in enumerate(self.objects):
            if item.colour == colour and item.shape == shape:
                return k
        raise ValueError(f"There is no {colour} {shape} in this scene; it has {[o.name for o in self.objects]}.")

    @property
    def eef(self) -> np.ndarray:
        return self.data.site_xpos[self._site]

    @property
    def opening(self) -> float:
        """Gripper opening, 0-1."""
        return float(self.data.qpos[self._finger_qpos].mean() / FINGER_TRAVEL)

    @property
    def yaw(self) -> float:
        """Turn of the end-effector away from home about the vertical, rad."""
        matrix = self.data.site_xmat[self._site]
        return float(np.arctan2(matrix[3], matrix[0]))

    @property
    def tilt(self) -> np.ndarray:
        """Tilt of the end-effector about x and y [2], rad."""
        matrix = self.data.site_xmat[self._site]
        return np.array([-matrix[5], matrix[2]])

    def object_yaw(self, slot: int) -> float:
        """Turn of the fingers that grasps the object squarely across x, the smallest one, rad; 0 for cylinders."""
        if self.objects[slot].geometry.cylinder:
            return 0.0
        matrix = self.rotation(slot)
        quarter = np.pi / 2 if self.objects[slot].geometry.size[0] == self.objects[slot].geometry.size[1] else np.pi
        yaw = float(np.arctan2(matrix[1, 0], matrix[0, 0]))
        return yaw - quarter * round(yaw / quarter)

    def position(self, slot: int) -> np.ndarray:
        return self.data.xpos[self._bodies[slot]]

    def rotation(self, slot: int) -> np.ndarray:
        """Rotation matrix [3, 3] of an object."""
        return self.data.xmat[self._bodies[slot]].reshape(3, 3)

    def bottom(self, slot: int) -> float:
        """Height of the object's lowest point above the table, m."""
        return float(
            (self.objects[slot].geometry.points() @ self.rotation(slot).T)[:, 2].min() + self.position(slot)[2]
        )

    def speed(self, slot: int) -> float:
        dof = self._dofs[slot]
        return float(np.linalg.norm(self.data.qvel[dof : dof + 3]))

    def rest(self, slot: int) -> None:
        """Take an object's speed away."""
        self.data.qvel[self._dofs[slot] : self._dofs[slot] + 6] = 0.0

    def place(self, name: str) -> np.ndarray:
        """Centre of a bowl, or of the drawer's floor where it is now."""
        if name == "drawer":
            return self.data.xpos[self.model.body("drawer").id] + np.array([0.0, -0.003, 0.011])
        return self.data.xpos[self.model.body(name).id]

    @property
    def handle(self) -> np.ndarray:
        return self.data.xpos[self.model.body("drawer").id] + HANDLE

    @property
    def button_top(self) -> np.ndarray:
        return self.data.xpos[self.model.body("button").id] + np.array([0.0, 0.0, 0.008])

    @property
    def drawer_opening(self) -> float:
        """How far the drawer is pulled out, m."""
        return float(self.data.qpos[self._drawer])

    @property
    def button_depth(self) -> float:
        """How far the button is pressed, m."""
        return float(self.data.qpos[self._button])

    def touching(self, slot: int) -> int:
        """How many fingers touch the object: 0, 1 or 2."""
        return self._touching(int(self._geoms[slot]))

    def holding(self, slot: int) -> bool:
        """Whether both fingers touch the object."""
        return self.touching(slot) == 2

    @property
    def holding_handle(self) -> bool:
        return self._touching(self._handle) == 2

    @property
    def contact(self) -> bool:
        """Whether a finger touches any object, the handle or the button."""
        return any(self._touching(int(g)) for g in (*self._geoms[: len(self.objects)], self._handle)) or (
            self._touching(self.model.geom("button").id) > 0
        )

    def _touching(self, geom: int) -> int:
        pairs = self.data.contact.geom
        others = pairs[(pairs == geom).any(axis=1)]
        return sum(bool(np.isin(others, finger).any()) for finger in self._fingers)


def set_pose(model: Any, data: Any, slot: int, position: np.ndarray, yaw: float = 0.0) -> None:
    """Put an object somewhere at rest."""
    address = model.joint(f"object{slot}").qposadr[0]
    data.qpos[address : address + 3] = position
    mujoco.mju_axisAngle2Quat(data.qpos[address + 3 : address + 7], np.array([0.0, 0.0, 1.0]), yaw)

"""The platform's four robots: what its numbers mean, which cameras they have, and how both become the policy's.

On the wire an arm is six joints and a gripper, or position (m), rotation and gripper, where the rotation is roll, pitch
and yaw about the fixed axes x, y, z (rad) or a quaternion x, y, z, w. A policy's robot is described by its embodiment.
Both sides are read per arm: joints and gripper, or position, rotation (Euler or quaternion) and gripper.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Float32
from scipy.spatial.transform import Rotation

from visuomotor.embodiment import Component, Embodiment
from visuomotor.spelling import did_you_mean

__all__ = ["ROBOTS", "ActionType", "Convention", "Layout", "euler_from_quaternion", "quaternion_from_euler"]

ActionType = Literal["joint", "pos", "leftjoint", "leftpos", "rightjoint", "rightpos"]
ROBOTS = ("aloha", "arx5", "franka", "ur5")
# In the model's order. Single arms: opposite the robot, at its side, on its wrist; UR5 has none at its side.
CAMERAS: dict[int, dict[str, tuple[str, ...]]] = {
    1: {
        "aloha": ("high", "left_hand", "right_hand"),
        "arx5": ("right_hand", "high", "left_hand"),
        "franka": ("right_hand", "high", "left_hand"),
        "ur5": ("right_hand", "left_hand"),
    },
    2: {
        "aloha": ("cam_high", "cam_left_wrist", "cam_right_wrist"),
        "arx5": ("cam_global", "cam_side", "cam_arm"),
        "franka": ("cam_global", "cam_side", "cam_arm"),
        "ur5": ("cam_global", "cam_arm"),
    },
}
FIRST_GENERATION_ROTATIONS = {"arx5": (3,), "franka": (4,), "ur5": (3, 4)}  # published sources on UR5 contradict
EULER, QUATERNION = "euler_xyz_extrinsic", "quat_xyzw"


def euler_from_quaternion(quaternion: Float[np.ndarray, "... 4"]) -> Float[np.ndarray, "... 3"]:
    """Roll, pitch, yaw about the fixed axes x, y, z (rad) of quaternions x, y, z, w; q and -q give the same."""
    norms = np.linalg.norm(quaternion, axis=-1)
    if not (np.abs(norms - 1) < 0.1).all():
        raise ValueError(f"Expected a unit quaternion (x, y, z, w); got {np.asarray(quaternion).tolist()}.")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gimbal lock")  # any of the equal angles will do
        return Rotation.from_quat(quaternion).as_euler("xyz")


def quaternion_from_euler(euler: Float[np.ndarray, "T 3"]) -> Float[np.ndarray, "T 4"]:
    """Quaternions x, y, z, w of roll, pitch, yaw (rad), neighbours in time in the same half of the sphere."""
    quaternions = Rotation.from_euler("xyz", euler).as_quat()
    turned = np.sign((quaternions[1:] * quaternions[:-1]).sum(-1, keepdims=True))
    quaternions[1:] *= np.cumprod(np.where(turned < 0, -1.0, 1.0), axis=0)
    return quaternions


@dataclass(frozen=True, kw_only=True)
class Convention:
    """A robot as one generation of the platform's interface speaks of it.

    action_type: what the numbers are; None takes the robot's usual one (ALOHA joints in the first generation, poses in
    the second; the single arms poses of the "left" arm).
    """

    robot: str
    generation: int = 1
    action_type: ActionType | None = None

    def __post_init__(self) -> None:
        if self.robot not in ROBOTS:
            hint = did_you_mean(self.robot, ROBOTS)
            raise ValueError(f"There is no robot {self.robot!r}.{hint} The platform has {', '.join(ROBOTS)}.")
        if self.generation not in CAMERAS:
            raise ValueError(f"The platform's interface has generations 1 and 2; given {self.generation}.")
        if self.action_type is not None and self.action_type not in get_args(ActionType):
            known = get_args(ActionType)
            hint = did_you_mean(self.action_type, known)
            raise ValueError(f"Unknown action_type {self.action_type!r}.{hint} Known: {', '.join(known)}.")
        if (self.type in ("joint", "pos")) != (self.robot == "aloha"):
            arms = "two arms, which policies here move together: joint or pos" if self.arms == 2 else "one arm: leftpos"
            raise ValueError(f"action_type {self.type!r} does not fit {self.robot}, which has {arms}.")

    @property
    def type(self) -> str:
        """The action_type that is sent."""
        if self.action_type is not None:
            return self.action_type
        if self.robot == "aloha":
            return "joint" if self.generation == 1 else "pos"
        return "leftpos"

    @property
    def arms(self) -> int:
        return 2 if self.robot == "aloha" else 1

    @property
    def joints(self) -> bool:
        return self.type.endswith("joint")

    @property
    def cameras(self) -> tuple[str, ...]:
        """The platform's names, in the model's order."""
        return CAMERAS[self.generation][self.robot]

    @property
    def rotations(self) -> tuple[int, ...]:
        """How many numbers a rotation may have on the wire: 3 roll, pitch, yaw; 4 quaternion."""
        return (4,) if self.generation == 2 else FIRST_GENERATION_ROTATIONS.get(self.robot, (4,))


class Layout:
    """The way between a robot's numbers on the wire and a policy's.

        layout = Layout(Convention(robot="franka"), policy.embodiment)
        state = layout.state(wire)                          # 8 numbers -> float32[7]
        actions = layout.actions(chunk.actions, wire)       # [T, 7] -> [T, 8]

    `cameras` is {the policy's camera: the platform's}; `absolute_dims` are the grippers' places in the policy's
    actions, which are never differences.

    Args:
        cameras: the platform's camera for cameras of the policy that bear none of the platform's names.

    Raises:
        ValueError: the embodiment is that of another robot, or speaks in another convention; names both sides.
    """

    def __init__(
        self, convention: Convention, embodiment: Embodiment, cameras: Mapping[str, str] | None = None
    ) -> None:
        self.convention, self.embodiment = convention, embodiment
        self._state = self._arms(embodiment.state, "state")
        self._action = self._arms(embodiment.action, "action")
        if [_widths(arm) for arm in self._state] != [_widths(arm) for arm in self._action]:
            raise ValueError(f"Embodiment {embodiment.name!r} has other components in its state than in its action.")
        self.cameras = {c.name: self._camera(c.name, cameras or {}) for c in embodiment.cameras}
        ends = np.cumsum([len(c.dims) for c in embodiment.action])
        self.absolute_dims = tuple(
            int(end) - 1 for end, c in zip(ends, embodiment.action, strict=True) if c.kind == "gripper"
        )

    def state(self, wire: Sequence[float]) -> Float32[np.ndarray, "s"]:
        """The policy's state of the robot's numbers."""
        numbers = np.asarray(wire, np.float64)
        turn = self._turn(numbers)
        parts = []
        for values, arm in zip(np.split(numbers, self.convention.arms), self._state, strict=True):
            if self.convention.joints:
                parts.append(values)
                continue
            wanted = len(arm[1].dims)
            rotation = values[3 : 3 + turn]
            if (turn, wanted) == (4, 3):
                rotation = euler_from_quaternion(rotation)
            elif (turn, wanted) == (3, 4):
                rotation = quaternion_from_euler(rotation[None])[0]
            parts += [values[:3], rotation, values[3 + turn :]]
        return np.concatenate(parts).astype(np.float32)

    def actions(
        self, actions: Float[np.ndarray, "T A"], wire: Sequence[float], stretch: int = 1
    ) -> Float[np.ndarray, "n w"]:
        """A chunk in the robot's numbers: absolute, laid out as `wire`, the state that the chunk answers.

        Angles go on steadily in time, beyond pi where they must, and quaternions do not jump to the other half.
        `stretch` puts that many steps in place of one, on straight lines between them.
        """
        turn = self._turn(np.asarray(wire, np.float64))
        chunk = self._absolute(np.asarray(actions, np.float64), self.state(wire).astype(np.float64))
        parts = []
        for values, arm in zip(np.split(chunk, self.convention.arms, axis=1), self._action, strict=True):
            for component, columns in zip(arm, np.split(values, np.cumsum(_widths(arm))[:-1], axis=1), strict=True):
                turns = component.kind == "rotation"
                parts.append(_rotation(columns, turn, stretch) if turns else _stretched(columns, stretch))
        return np.concatenate(parts, axis=1)

    def _absolute(self, chunk: np.ndarray, state: np.ndarray) -> np.ndarray:
        """The chunk with differences to its start resolved, element by element as in DM0."""
        start = 0
        chunk = chunk.copy()
        for component in self.embodiment.action:
            place = slice(start, start + len(component.dims))
            if component.reference == "chunk_start":
                chunk[:, place] += state[place]
            start = place.stop
        return chunk

    def _turn(self, numbers: np.ndarray) -> int:
        """How many numbers a rotation has in a state; ValueError when its length is not this robot's."""
        convention = self.convention
        if convention.joints:
            allowed = {self.embodiment.state_dim: 0}
        else:
            allowed = {convention.arms * (4 + turn): turn for turn in convention.rotations}
        if numbers.ndim != 1 or len(numbers) not in allowed or not np.isfinite(numbers).all():
            lengths = " or ".join(str(n) for n in allowed)
            raise ValueError(
                f"The state of {convention.robot} (action_type {convention.type}) must be {lengths} finite numbers in "
                f"generation {convention.generation} of the interface; got {numbers.tolist()}."
            )
        return allowed[len(numbers)]

    def _arms(self, components: tuple[Component, ...], what: str) -> list[tuple[Component, ...]]:
        kinds = ("joint", "gripper") if self.convention.joints else ("position", "rotation", "gripper")
        arms = [components[i : i + len(kinds)] for i in range(0, len(components), len(kinds))]
        fits = len(arms) == self.convention.arms and all(tuple(c.kind for c in arm) == kinds for arm in arms)
        sizes = {"position": 3, "gripper": 1}
        if not fits or any(len(c.dims) != sizes.get(c.kind, len(c.dims)) for c in components):
            raise ValueError(
                f"The policy's robot {self.embodiment.name!r} has the {what} components "
                f"{[f'{c.name} ({c.kind})' for c in components]}, but {self.convention.robot} with action_type "
                f"{self.convention.type!r} needs {' and '.join(kinds)} for each of {self.convention.arms} arms. "
                f"Take a policy for this robot, or another action_type."
            )
        for component in components:
            self._require_known(component, what)
        return arms

    def _require_known(self, component: Component, what: str) -> None:
        named = f"The {what} component {component.name!r} of the policy's robot {self.embodiment.name!r}"
        if component.kind == "rotation" and (component.rotation, len(component.dims)) not in {
            (EULER, 3),
            (QUATERNION, 4),
        }:
            raise ValueError(
                f"{named} is a rotation as {component.rotation!r}; the platform's are {EULER}, {QUATERNION}."
            )
        relative = ("absolute",) if component.kind == "gripper" else ("absolute", "chunk_start")
        if what == "action" and component.reference not in relative:
            raise ValueError(f"{named} has reference {component.reference!r}; the robot takes {' or '.join(relative)}.")
        if component.reference == "chunk_start" and component.rotation == QUATERNION:
            raise ValueError(f"{named} would add quaternions; differences to the chunk's start need Euler angles.")
        wanted = {"position": ("m",), "rotation": ("rad", ""), "joint": ("rad",)}.get(component.kind)
        if wanted and component.rotation != QUATERNION and component.unit not in wanted:
            raise ValueError(f"{named} is in {component.unit!r}; the robot's numbers are in {wanted[0]}.")

    def _camera(self, name: str, given: Mapping[str, str]) -> str:
        if name in given:
            return given[name]
        for cameras in (table[self.convention.robot] for table in CAMERAS.values()):
            if name in cameras:
                return self.convention.cameras[cameras.index(name)]
        raise ValueError(
            f"The policy's camera {name!r} is none of {self.convention.robot}'s, which are "
            f"{', '.join(self.convention.cameras)}; say which one it is, e.g. --camera {name} "
            f"{self.convention.cameras[0]}."
        )


def _rotation(values: np.ndarray, turn: int, stretch: int) -> np.ndarray:
    """A rotation over time, as `turn` numbers. Angles are what is stretched, as in the published client."""
    if values.shape[1] == 4:
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        if not (norms > 0.1).all():
            raise ValueError("The policy gave a quaternion near zero, which is no rotation; nothing was sent.")
        if (turn, stretch) == (4, 1):
            return values / norms
        values = euler_from_quaternion(values / norms)
    angles = _stretched(np.unwrap(values, axis=0), stretch)
    return angles if turn == 3 else quaternion_from_euler(angles)


def _stretched(values: np.ndarray, stretch: int) -> np.ndarray:
    """[T, d] -> [T * stretch, d], from the same first to the same last row."""
    places = np.linspace(0, len(values) - 1, len(values) * stretch)
    return np.stack([np.interp(places, np.arange(len(values)), column) for column in values.T], axis=1)


def _widths(arm: Sequence[Component]) -> list[int]:
    return [len(component.dims) for component in arm]

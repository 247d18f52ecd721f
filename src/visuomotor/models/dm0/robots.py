"""The robots of published Table30 checkpoints, in the layout their numbers have in the model.

Units are metres and radians. Euler angles turn about the fixed axes x, y, z. Cameras stand in the model's order, under
the names that RoboChallenge gives them. Gripper values are those the published clients send; where only the closed one
is known, the opened one is nominal (ALOHA: its upper limit).

ALOHA's joints have the ranges and speeds of its arms (see `ALOHA`). The other robots are commanded by poses, for which
no model file states limits.
"""

from dataclasses import replace

from visuomotor.contract import Camera, Component, Embodiment
from visuomotor.joint_limits import JOINT_LIMITS

__all__ = ["ROBOTS"]

SIDE = 728
CONTROL_HZ = 10.0  # the published clients send one action each 0.1 s, but for a few tasks
# The published client of Table30 clips ALOHA to the ranges of a Piper arm, but for the last joint, which it lets turn
# by 180 degrees. A default must not cut what published policies send, so that joint gets the wider range.
PIPER = JOINT_LIMITS["piper"]
ALOHA = replace(PIPER, low=(*PIPER.low[:5], -3.14159), high=(*PIPER.high[:5], 3.14159))


def _cameras(*names: str) -> tuple[Camera, ...]:
    return tuple(Camera(name=name, role=f"image_{i}", height=SIDE, width=SIDE) for i, name in enumerate(names))


def _gripper(opened: float, closed: float, name: str = "gripper", unit: str = "m") -> Component:
    return Component(name=name, dims=("opening",), kind="gripper", unit=unit, opened=opened, closed=closed)


def _tool(gripper: Component) -> tuple[Component, ...]:
    return (
        Component(name="position", dims=("x", "y", "z"), kind="position", unit="m"),
        Component(
            name="rotation", dims=("roll", "pitch", "yaw"), kind="rotation", unit="rad", rotation="euler_xyz_extrinsic"
        ),
        gripper,
    )


def _arm(side: str) -> tuple[Component, ...]:
    joints = tuple(f"joint_{i}" for i in range(1, 7))
    return (
        ALOHA.applied(Component(name=f"{side}_arm", dims=joints, kind="joint", unit="rad")),
        _gripper(0.1, 0.0, f"{side}_gripper"),
    )


def _robot(name: str, cameras: tuple[Camera, ...], components: tuple[Component, ...]) -> Embodiment:
    return Embodiment(name=name, control_hz=CONTROL_HZ, cameras=cameras, state=components, action=components)


ROBOTS: dict[str, Embodiment] = {
    "aloha": _robot("aloha", _cameras("high", "left_hand", "right_hand"), (*_arm("left"), *_arm("right"))),
    "arx5": _robot("arx5", _cameras("right_hand", "high", "left_hand"), _tool(_gripper(0.1, 0.0))),
    "franka": _robot("franka", _cameras("right_hand", "high", "left_hand"), _tool(_gripper(0.084, 0.004))),
    "ur5": _robot("ur5", _cameras("right_hand", "left_hand"), _tool(_gripper(228.0, 3.0, unit="step"))),
}

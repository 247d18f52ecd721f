"""The robots of published CogACT checkpoints, and the data sets whose statistics are theirs.

An action is a difference per step of position (m) and of Euler angles about the fixed axes x, y, z (rad), and the
gripper's target: 1 is open, 0 closed. The models read one camera and no proprioception.
"""

from visuomotor.contract import Camera, Component, Embodiment

__all__ = ["DATASETS", "ROBOTS"]

SIDE = 224
DATASETS = {"google_robot": "fractal20220817_data", "widowx": "bridge_orig"}


def _robot(name: str, control_hz: float) -> Embodiment:
    return Embodiment(
        name=name,
        control_hz=control_hz,
        cameras=(Camera(name="image", role="image", height=SIDE, width=SIDE),),
        state=(),
        action=(
            Component(name="translation", dims=("dx", "dy", "dz"), kind="position", unit="m", reference="step"),
            Component(
                name="rotation", dims=("droll", "dpitch", "dyaw"), kind="rotation", unit="rad", reference="step",
                rotation="euler_xyz_extrinsic",
            ),
            Component(
                name="gripper", dims=("gripper",), kind="gripper", unit="command", opened=1.0, closed=0.0,
                normalization="none",
            ),
        ),
    )  # fmt: skip


ROBOTS: dict[str, Embodiment] = {"google_robot": _robot("google_robot", 3.0), "widowx": _robot("widowx", 5.0)}

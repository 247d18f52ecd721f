"""An embodiment in the words of vla-eval: what actions are, what observations have to be.

A spec is {"name", "dims", "format"[, "range"]}; benchmarks compare formats with their own and warn where they differ.
"""

from typing import Any

import numpy as np

from visuomotor.embodiment import Component, Embodiment
from visuomotor.serving.observations import ObservationKeys

__all__ = ["action_spec", "observation_params", "observation_spec"]

ROTATIONS = {"quat_xyzw": "quaternion_xyzw", "euler_xyz_extrinsic": "euler_xyz"}  # other names are the same
KINDS = {"joint": "joints"}  # where benchmarks have another word
GRIPPERS = {
    (-1.0, 1.0): "binary_close_positive",  # (opened, closed)
    (1.0, -1.0): "binary_close_negative",
    (0.0, 1.0): "binary_close_01",
    (1.0, 0.0): "continuous_01",
}
STATE_ROTATIONS = {
    "axis_angle": "axisangle3",
    "quat_xyzw": "quat4",
    "euler_xyz": "euler3",
    "euler_xyz_extrinsic": "euler3",
}


def action_spec(embodiment: Embodiment) -> dict[str, dict[str, Any]]:
    """{"position" | "rotation" | "gripper" | "joints" | ...: spec}; by their own names where two are of one kind."""
    kinds = [component.kind for component in embodiment.action]
    return {
        KINDS.get(c.kind, c.kind) if kinds.count(c.kind) == 1 and c.kind != "other" else c.name: _component(c)
        for c in embodiment.action
    }


def observation_spec(keys: ObservationKeys) -> dict[str, dict[str, Any]]:
    """A spec for each camera under the name that it has in messages, for the state, and for the instruction."""
    image = {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"}
    specs = {key.removeprefix("images/"): dict(image) for key in keys.cameras.values()}
    if keys.embodiment.state_dim:
        form = state_format(keys.embodiment.state)
        specs["state"] = {"name": "state", "dims": keys.embodiment.state_dim, "format": form}
    specs["language"] = {"name": "language", "dims": 0, "format": "language"}
    return specs


def observation_params(embodiment: Embodiment) -> dict[str, Any]:
    """What a benchmark is asked to send, in the parameters that most of vla-eval's have."""
    wrist = any("wrist" in c.role.lower() or "wrist" in c.name.lower() for c in embodiment.cameras)
    return {"send_wrist_image": wrist, "send_state": embodiment.state_dim > 0}


def state_format(state: tuple[Component, ...]) -> str:
    """ "eef_pos3_axisangle3_gripper2" and the like, "joint_positions", or "raw" for anything else."""
    kinds = [c.kind for c in state]
    if kinds == ["position", "rotation", "gripper"] and state[1].rotation in STATE_ROTATIONS:
        return f"eef_pos3_{STATE_ROTATIONS[state[1].rotation]}_gripper{len(state[2].dims)}"
    return "joint_positions" if set(kinds) <= {"joint", "gripper"} else "raw"


def _component(component: Component) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": component.name, "dims": len(component.dims), "format": _format(component)}
    if component.low is not None and component.high is not None:
        spec["range"] = [float(np.min(component.low)), float(np.max(component.high))]
    spec["description"] = f"{component.unit}, {component.reference}, frame {component.frame}"
    return spec


def _format(component: Component) -> str:
    if component.kind == "position" and len(component.dims) == 3:
        return "absolute_xyz" if component.reference == "absolute" else "delta_xyz"
    if component.kind == "rotation" and component.rotation is not None:
        return ROTATIONS.get(component.rotation, component.rotation)
    if component.kind == "gripper" and component.opened is not None and component.closed is not None:
        return GRIPPERS.get((component.opened, component.closed), "raw")
    return "joint_positions" if component.kind == "joint" else "raw"

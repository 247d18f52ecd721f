"""What a command may do: limits beside those that the embodiment declares. numpy only."""

from dataclasses import dataclass, fields
from typing import Optional, Union

import numpy as np

from visuomotor_client.robot import as_numbers

__all__ = ["SafetyLimits"]

Point = tuple[float, float, float]
Corners = tuple[Point, Point]  # low and high


@dataclass(frozen=True)
class SafetyLimits:
    """Limits of motion and time; None sets none. What the embodiment declares (`low`, `high`) always holds.

    velocity           of each joint, in its unit per second; one for all, or one for each joint of the action; None:
                       that of the embodiment, if it states one
    acceleration       of each joint, in its unit per second squared; braking in front of a position limit included
    step_length        of an end-effector's translation, in its unit per control step
    step_angle         of an end-effector's rotation, rad per control step, whatever its format
    workspace          low and high corner of a box for end-effectors, beside the limits of the measured position
    keep_out           boxes that no end-effector enters
    gripper_rate       of a gripper, in shares of its way from closed to opened per second
    gripper_hysteresis the share of that way below which a reversal of a gripper is ignored
    chunk_age          seconds after its observation at which an action is too old
    watchdog           seconds without an observation, or without an action, after which the robot is held; without an
                       observation that the filter depends on, it is held until a release
    state_age          seconds after its measurement at which a state counts as missing; None: 1.5 control steps
    """

    velocity: Optional[Union[float, tuple[float, ...]]] = None
    acceleration: Optional[Union[float, tuple[float, ...]]] = None
    step_length: Optional[float] = None
    step_angle: Optional[float] = None
    workspace: Optional[Corners] = None
    keep_out: tuple[Corners, ...] = ()
    gripper_rate: Optional[float] = None
    gripper_hysteresis: float = 0.0
    chunk_age: Optional[float] = None
    watchdog: Optional[float] = None
    state_age: Optional[float] = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("workspace", "keep_out") or value is None:
                continue
            least = 0.0 if field.name == "gripper_hysteresis" else np.nextafter(0.0, 1.0)
            most_dims = 1 if field.name in ("velocity", "acceleration") else 0
            numbers = as_numbers(value)
            if numbers.ndim > most_dims or not ((numbers >= least) & (numbers < np.inf)).all():
                raise ValueError(
                    f"The safety limit {field.name} is {str(value)[:80]}; give a finite number above 0"
                    f"{', one for each joint' * most_dims}, or None."
                )
        boxes = (*self.keep_out, *((self.workspace,) if self.workspace is not None else ()))
        for box in boxes:
            if np.shape(box) != (2, 3) or not (np.asarray(box[0]) < np.asarray(box[1])).all():
                raise ValueError(
                    f"A box is ((x, y, z), (x, y, z)) with each low corner below the high one; given {box}."
                )

"""Units and views of one robot, as a processor's configuration asks for them."""

import dataclasses

import numpy as np

from visuomotor.contract import Embodiment
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.normalization import (
    ReferenceChange,
    Units,
    gripper_values,
    normalizer,
    reference_change,
    step_dimensions,
)
from visuomotor.data.statistics import Statistics

__all__ = ["reference_of", "robot_units", "robot_views"]


def robot_units(config: ProcessorConfig, embodiment: Embodiment, statistics: Statistics) -> Units:
    """Conversions between a robot's numbers and the model's."""
    near, of_state, of_action = config.near_constant, config.state_normalization, config.action_normalization
    action = normalizer(embodiment.action, statistics.action, config.action_width, "action", near, of_action)
    state = normalizer(embodiment.state, statistics.state, config.state_width, "state", near, of_state)
    if not config.tell_state:
        state = dataclasses.replace(state, scale=np.full_like(state.scale, np.inf))  # whatever it is, it becomes 0
    return Units(
        state=dataclasses.replace(state, clip=config.clip_state),
        action=dataclasses.replace(action, clip=config.clip_actions),
        reference=reference_of(config, embodiment),
        still=step_dimensions(embodiment) if config.past_end == "still" else (),
        grippers=gripper_values(embodiment) if config.binary_grippers else (),
    )


def reference_of(config: ProcessorConfig, embodiment: Embodiment) -> ReferenceChange | None:
    """Change of the actions' reference that the configuration asks for; None: actions stay as the data has them."""
    if config.action_reference == "embodiment":
        return None
    return reference_change(embodiment, config.state_of, config.wrap_angles)


def robot_views(config: ProcessorConfig, embodiment: Embodiment) -> tuple[bool, ...]:
    """Which of the model's camera roles the robot has; ValueError where it lacks one that is not optional."""
    missing = [r for r in config.image_roles if r not in embodiment.roles and r not in config.optional_roles]
    if missing:
        raise ValueError(
            f"The model wants camera role {missing[0]!r} but embodiment {embodiment.name!r} has roles "
            f"{list(embodiment.roles)}. Give a camera that role in embodiment.json, set image_roles to what there "
            f"is, or list {missing[0]!r} in optional_roles to train with a masked view."
        )
    views = tuple(r in embodiment.roles for r in config.image_roles)
    if not any(views):
        raise ValueError(f"Embodiment {embodiment.name!r} has none of the camera roles {list(config.image_roles)}.")
    return views

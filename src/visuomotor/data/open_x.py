"""Conventions of two data sets of Open X-Embodiment, as CogACT and OpenVLA train on them.

An action becomes seven numbers: differences of position and of Euler angles per step, and the gripper's target, 1 open
and 0 closed. The functions take one whole episode, because a gripper's state depends on frames before or behind.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from visuomotor.contract import Episode

__all__ = ["absolute_gripper", "bridge", "fractal", "settled_gripper"]

QUIET = 0.1  # a relative command of less moves nothing
OPEN, CLOSED = 0.95, 0.05


def absolute_gripper(closing: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F"]:
    """Commands relative to the gripper's state (+1 closes, -1 opens, 0 keeps) as targets: 1 open, 0 closed.

    The last command is carried on. Before the first one the gripper is in the opposite state; without any it is open.
    """
    command = np.where(closing > QUIET, 0.0, np.where(closing < -QUIET, 1.0, np.nan))
    told = np.flatnonzero(~np.isnan(command))
    if not len(told):
        return np.ones(len(closing), np.float32)
    latest = np.searchsorted(told, np.arange(len(closing)), side="right") - 1
    targets = np.where(latest < 0, 1 - command[told[0]], command[told[latest]])
    return targets.astype(np.float32)


def settled_gripper(opening: Float[np.ndarray, "F"]) -> Float[np.ndarray, "F"]:
    """Openings 0-1 as targets: above 0.95 open, below 0.05 closed; on its way the gripper has the state it is to reach.

    Where it never arrives, the last opening of the episode stands.
    """
    settled = np.flatnonzero((opening > OPEN) | (opening < CLOSED))
    if not len(opening):
        return np.zeros(0, np.float32)
    ends = np.append((opening[settled] > OPEN).astype(np.float32), opening[-1])
    return ends[np.searchsorted(settled, np.arange(len(opening)), side="left")].astype(np.float32)


def fractal(episode: Episode) -> Episode:
    """An episode of Fractal (RT-1, `fractal20220817_data`): actions [dx dy dz | droll dpitch dyaw | closing]."""
    _require_seven(episode)
    actions = np.array(episode.actions, np.float32)
    actions[:, 6] = absolute_gripper(actions[:, 6])
    return replace(episode, actions=actions)


def bridge(episode: Episode) -> Episode:
    """An episode of Bridge V2 (`bridge_orig`), whose state begins with position and Euler angles.

    The first frame, which commands nothing, is left out. Motion becomes the difference to the next frame's state,
    instead of what was commanded, and the last frame, which has no next one, is left out, too.

    Raises:
        ValueError: fewer than 3 frames, other actions, or a state without pose.
    """
    _require_seven(episode)
    if len(episode.actions) < 3 or episode.state.shape[1] < 6:
        raise ValueError(
            f"An episode of Bridge has at least 3 frames with a pose of 6 numbers, not {list(episode.state.shape)}."
        )
    kept = slice(1, len(episode.actions) - 1)
    actions = np.array(episode.actions, np.float32)
    actions[1:, 6] = settled_gripper(actions[1:, 6])
    actions[:-1, :6] = np.diff(episode.state[:, :6].astype(np.float32), axis=0)
    return replace(
        episode,
        state=episode.state[kept],
        actions=actions[kept],
        images={camera: frames[kept] for camera, frames in episode.images.items()},
        annotations=episode.annotations[kept],
    )


def _require_seven(episode: Episode) -> None:
    if episode.actions.ndim != 2 or episode.actions.shape[1] != 7:
        raise ValueError(
            f"Actions are {list(episode.actions.shape)}; expected [F, 7]: position, Euler angles, gripper."
        )

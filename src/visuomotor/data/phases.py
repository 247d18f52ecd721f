"""What tells that a robot manipulates: gripper command, contact, speed, proximity. Dimensions: F frames, S signals.

The published signal, the gripper command, is blind to pushing, wiping and screwing: no gripper opens or closes there.
"""

import numpy as np
from jaxtyping import Bool, Float

from visuomotor.data.episodes import EpisodeSource
from visuomotor.data.statistics import describe
from visuomotor.data.weighting import Signal, WeightingConfig, phases_of, trajectory_weight
from visuomotor.embodiment import Embodiment

__all__ = ["NEEDS", "episode_weights", "label_shares", "phase_signals", "require_signal"]

CONTACT = "annotation.contact"
NEEDS: dict[Signal, tuple[str, ...]] = {"contact": ("contact",), "proximity": ("boxes", "point")}  # annotations
FAST = 95  # percentile of a trajectory's speed that stands for moving fast


def episode_weights(dataset: EpisodeSource, config: WeightingConfig) -> list[Float[np.ndarray, "F"]]:
    """Trajectory weights of every episode of a data set, each computed on the whole of it."""
    found = []
    for episode in range(dataset.num_episodes):
        frames = dataset.episode_slice(episode)
        phases = phases_of(phase_signals(dataset, frames, config), config)
        found.append(trajectory_weight(phases, frames.stop - frames.start, config, dataset.fps))
    return found


def label_shares(dataset: EpisodeSource, config: WeightingConfig) -> dict[str, float]:
    """{task: share of its frames labelled manipulation}; a task is what simulated episodes say, or the words."""
    found: dict[str, list[np.ndarray]] = {}
    for episode, weights in enumerate(episode_weights(dataset, config)):
        scenario = dataset.info(episode).get("scenario", {})
        kind = scenario.get("options", {}).get("kind") or scenario.get("task") or dataset.instruction(episode)
        found.setdefault(kind, []).append(weights > config.threshold)
    return {kind: float(np.concatenate(labels).mean()) for kind, labels in sorted(found.items())}


def phase_signals(dataset: EpisodeSource, frames: slice, config: WeightingConfig) -> Bool[np.ndarray, "F S"]:
    """The configured signal in the frames of an episode, one column for each gripper or hand.

    Raises:
        ValueError: the robot or the data set has nothing to read it from.
    """
    require_signal(dataset.require_embodiment(), config.signal)
    if config.signal == "gripper":
        return _closed(dataset, frames)
    if config.signal == "speed":
        return _slow(dataset, frames, config.slow)
    for annotation in NEEDS[config.signal]:
        if not dataset.has(annotation):
            raise ValueError(
                f"{describe(dataset)} has no annotation {annotation!r}, which weighting.signal {config.signal!r} "
                f"reads; choose another signal, or collect the data with annotations."
            )
    if config.signal == "contact":
        return np.asarray(dataset.columns[CONTACT][frames], dtype=bool).reshape(-1, 1)
    return _near(dataset, frames, config.near)


def require_signal(embodiment: Embodiment, signal: Signal) -> None:
    """ValueError where the robot has no component that the signal is read from."""
    if signal == "gripper" and not any(c.kind == "gripper" for c in embodiment.action):
        raise ValueError(
            f"weighting.signal is 'gripper', but robot {embodiment.name!r} has no gripper command; choose 'contact', "
            f"'speed' or 'proximity'."
        )
    if signal == "speed" and not any(c.kind in ("position", "joint") for c in embodiment.state):
        raise ValueError(
            f"weighting.signal is 'speed', but the state of robot {embodiment.name!r} has neither position nor joints; "
            f"choose another signal."
        )


def _closed(dataset: EpisodeSource, frames: slice) -> Bool[np.ndarray, "F S"]:
    """Per gripper, whether it is commanded to be more closed than open; half way is open, as for the robot."""
    embodiment = dataset.require_embodiment()
    slices, columns = embodiment.action_slices(), []
    for component in embodiment.action:
        if component.kind == "gripper":
            command = dataset.columns["action"][frames, slices[component.name]].mean(axis=1)
            columns.append(np.abs(command - component.closed) < np.abs(command - component.opened))
    return np.stack(columns, axis=1)


def _slow(dataset: EpisodeSource, frames: slice, share: float) -> Bool[np.ndarray, "F S"]:
    """Per end-effector, or for all joints where no position is known, whether it is slower than a share of its fast."""
    embodiment = dataset.require_embodiment()
    slices, state = embodiment.state_slices(), dataset.columns["observation.state"][frames]
    kind = "position" if any(c.kind == "position" for c in embodiment.state) else "joint"
    columns = []
    for component in (c for c in embodiment.state if c.kind == kind):
        path = state[:, slices[component.name]].astype(np.float64)
        speed = np.linalg.norm(np.gradient(path, axis=0), axis=1) if len(path) > 1 else np.zeros(len(path))
        columns.append(speed < share * np.percentile(speed, FAST))
    return np.stack(columns, axis=1)


def _near(dataset: EpisodeSource, frames: slice, reach: int) -> Bool[np.ndarray, "F 1"]:
    """Whether the end-effector's point in the first camera's picture is near the box of a thing that the instruction or
    the sub-task names: on a full table the hand is always near something."""
    camera, rows = dataset.cameras[0], np.arange(frames.start, frames.stop)
    near = np.zeros((len(rows), 1), dtype=bool)
    for i, (words, annotation) in enumerate(
        zip(dataset.instructions(rows), dataset.annotations(rows) or (), strict=True)
    ):
        if camera not in annotation.point:
            continue
        x, y = annotation.point[camera]
        mentioned = f"{words} {annotation.subtask}"
        for x1, y1, x2, y2 in (box for name, box in annotation.boxes.get(camera, {}).items() if name in mentioned):
            aside, above = max(x1 - x, 0, x - x2), max(y1 - y, 0, y - y2)
            near[i] |= np.hypot(aside, above) <= reach
    return near

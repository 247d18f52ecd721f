"""A small healthy recording of an arm, and data sets on disk made from it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from visuomotor.contract import Annotation, Episode
from visuomotor.data.lerobot import Dataset, DatasetWriter
from visuomotor.embodiment import Camera, Component, Embodiment

XYZ = ("x", "y", "z")
FRAMES, FPS = 30, 10.0
ARM = Embodiment(
    name="arm",
    control_hz=FPS,
    cameras=(Camera(name="front", role="scene", height=32, width=32),),
    state=(
        Component(name="position", dims=XYZ, kind="position", unit="m", low=(-1.0,) * 3, high=(1.0,) * 3),
        Component(name="joints", dims=("j0", "j1"), kind="joint", unit="rad", low=(-3.2,) * 2, high=(3.2,) * 2),
        Component(name="gripper", dims=("width",), kind="gripper", unit="m", opened=0.08, closed=0.0),
    ),
    action=(
        Component(
            name="position", dims=XYZ, kind="position", unit="m", low=(-0.1,) * 3, high=(0.1,) * 3, reference="step"
        ),
        Component(name="joints", dims=("j0", "j1"), kind="joint", unit="rad", low=(-3.2,) * 2, high=(3.2,) * 2),
        Component(name="gripper", dims=("effort",), kind="gripper", unit="effort", opened=-1.0, closed=1.0),
    ),
)
Change = Callable[[Episode], Episode]


def episode(seed: int) -> Episode:
    """The arm wanders and closes its gripper two thirds of the way; it follows commands with noise."""
    rng = np.random.default_rng(seed)
    steps = np.clip(np.cumsum(rng.normal(0, 0.01, (FRAMES, 3)), 0), -0.09, 0.09)
    joints = np.clip(np.cumsum(rng.normal(0, 0.2, (FRAMES + 1, 2)), 0), -3, 3)
    closed = np.arange(FRAMES + 1) >= 20
    actions = np.concatenate([steps, joints[1:], np.where(closed[1:], 1.0, -1.0)[:, None]], 1)
    position = np.concatenate([np.zeros((1, 3)), np.cumsum(steps * 0.4, 0)[:-1]])
    width = np.where(closed[:-1], 0.01, 0.08) + rng.normal(0, 0.001, FRAMES)
    state = np.concatenate([position, joints[:-1] + rng.normal(0, 0.01, (FRAMES, 2)), width[:, None]], 1)
    images = rng.integers(0, 255, (FRAMES, 32, 32, 3), dtype=np.uint8)
    return Episode(
        instruction=("pick up the red block", "pick up the blue block")[seed % 2],
        state=state.astype(np.float32),
        actions=actions.astype(np.float32),
        images={"front": images},
    )


def annotated(recorded: Episode) -> Episode:
    """The episode with a box that crosses the picture, a rising progress and two sub-tasks."""
    annotations = tuple(
        Annotation(
            subtask="reach" if t < 20 else "lift",
            boxes={"front": {"block": (10 * t, 400, 10 * t + 300, 600)}},
            point={"front": (30 * t, 500)},
            progress=t / FRAMES,
            gripper_switch=t == 20,
            contact=t >= 20,
        )
        for t in range(FRAMES)
    )
    return replace(recorded, annotations=annotations)


def write(root: Path, change: Change = lambda e: e, robot: Embodiment = ARM, storage: str = "image") -> Dataset:
    """A data set of five episodes, each passed through `change` before it is written."""
    with DatasetWriter(root, robot, fps=FPS, storage="video" if storage == "video" else "image") as writer:
        for seed in range(5):
            writer.add(change(episode(seed)))
    return Dataset(root)


def component(robot: Embodiment, column: str, name: str, **changes: object) -> Embodiment:
    """`robot` with fields of one component changed."""
    parts = getattr(robot, column)
    return replace(robot, **{column: tuple(replace(c, **changes) if c.name == name else c for c in parts)})

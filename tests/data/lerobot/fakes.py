"""Tiny annotated episodes whose frames all differ."""

import numpy as np

from visuomotor.contract import Annotation, Camera, Component, Embodiment, Episode

SIDE, FPS, LENGTHS = 32, 10, (12, 9, 14)


def make_embodiment() -> Embodiment:
    arm = Component(name="arm", dims=("x", "y"), kind="position", unit="m")
    speed = Component(name="wheel", dims=("speed",), kind="velocity", unit="m/s")
    cameras = tuple(Camera(name=n, role=n, height=SIDE, width=SIDE) for n in ("scene", "wrist"))
    return Embodiment(name="toy", control_hz=FPS, cameras=cameras, state=(arm,), action=(arm, speed))


def make_images(seed: int, length: int, side: int = SIDE) -> np.ndarray:
    """Smooth frames, each unlike every other one of the test data: brightness tells the frame, blue the seed."""
    ramp = np.linspace(0, 60, side)
    images = np.empty((length, side, side, 3))
    for t in range(length):
        images[t] = (ramp[:, None] + ramp[None, ::-1])[..., None] + np.array([10 * t, 5 * t, 40 * seed])
    return images.clip(0, 255).astype(np.uint8)


def make_episode(index: int, length: int, annotated: bool = True) -> Episode:
    rng = np.random.default_rng(index)
    annotations = tuple(
        Annotation(
            subtask=f"part {t // 4}",
            boxes={"scene": {"red cube": (t, 2, 3, 4)}, "wrist": {}},
            point={"scene": (10 * t, 20 * t), "wrist": (t, 500)},
            progress=t / length,
            gripper_switch=t == 3,
            contact=t > 3,
        )
        for t in range(length)
    )
    return Episode(
        instruction=f"task {index % 2}",
        state=rng.normal(size=(length, 2)).astype(np.float32),
        actions=rng.normal(size=(length, 3)).astype(np.float32),
        images={"scene": make_images(index, length), "wrist": make_images(index + 3, length)[:, ::-1].copy()},
        annotations=annotations if annotated else (),
        info={"seed": index, "success": True},
    )

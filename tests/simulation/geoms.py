"""Which geom is seen in each pixel, to compare annotations and pictures with."""

from typing import Any

import mujoco
import numpy as np

from visuomotor.simulation.rendering import CameraRenderer


def segmentation(renderer: CameraRenderer, data: Any, camera: str | int) -> np.ndarray:
    """Geom id of each pixel of the renderer's pictures, int32[height, width]; -1 where there is no geom."""
    seen = mujoco.Renderer(renderer.model, renderer.height, renderer.width)
    try:
        seen.enable_segmentation_rendering()
        seen.update_scene(data, camera)
        ids = seen.render()
    finally:
        seen.close()
    return np.where(ids[..., 1] == int(mujoco.mjtObj.mjOBJ_GEOM), ids[..., 0], -1).astype(np.int32)

"""Render MuJoCo cameras off screen, with switches that make software rendering about ten times cheaper.

Import `mujoco` from here: MuJoCo chooses its graphics library while it is imported, and this module makes the choice.
"""

import os
import sys
from typing import Any, Literal, get_args

import numpy as np

if sys.platform == "linux" and "DISPLAY" not in os.environ:
    os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported; its default needs a display

import mujoco as _mujoco

mujoco: Any = _mujoco  # its enums and structures are native and unknown to type checkers

__all__ = ["CameraRenderer", "RenderQuality", "apply_quality", "mujoco"]

RenderQuality = Literal["fast", "default"]


def apply_quality(model: Any, quality: str) -> None:
    """Set the model's rendering quality. Takes effect only for renderers made afterwards.

    `fast` turns off shadows and multi-sampling, `default` leaves the model as it is.
    """
    if quality not in get_args(RenderQuality):
        raise ValueError(f"Unknown render quality {quality!r}; choose one of {', '.join(get_args(RenderQuality))}.")
    if quality == "fast":
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0


class CameraRenderer:
    """Renders named cameras of one model at one size: `render(data, camera) -> uint8[height, width, 3]`.

    The graphics context is made at the first image, so an environment that only steps physics never pays for it.
    `quality` ("fast" or "default", see `apply_quality`) belongs into every data set's record: the pictures differ.
    """

    def __init__(self, model: Any, height: int, width: int, quality: str = "fast") -> None:
        apply_quality(model, quality)
        if max(height, width) > min(model.vis.global_.offwidth, model.vis.global_.offheight):
            model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
            model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        self.model, self.height, self.width, self.quality = model, height, width, quality
        self._renderer: Any = None
        self._option = mujoco.MjvOption()

    def render(self, data: Any, camera: str | int) -> np.ndarray:
        """The camera's picture, uint8[height, width, 3], of the state that `mj_forward` last saw."""
        renderer = self._open()
        renderer.update_scene(data, camera, self._option)
        return renderer.render()

    def close(self) -> None:
        """Free the graphics context. Safe to call twice; a later `render` opens a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _open(self) -> Any:
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self.model, self.height, self.width)
            if self.quality == "fast":
                for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
                    self._renderer.scene.flags[flag] = 0
        return self._renderer

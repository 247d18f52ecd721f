"""Bringing images to the model's square size."""

import numpy as np
import torch
from torch.nn import functional

__all__ = ["fit"]

PAD_GREY = 127  # what the published DM0 pads with at inference; training data gets the same


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """uint8[..., h, w, 3] -> uint8[..., side, side, 3]: centred on a grey square, then bicubic with antialias.

    An image that has the size already is returned as it is.
    """
    height, width = image.shape[-3:-1]
    if height == width == side:
        return image
    square = max(height, width)
    canvas = np.full((*image.shape[:-3], square, square, 3), PAD_GREY, dtype=np.uint8)
    top, left = (square - height) // 2, (square - width) // 2
    canvas[..., top : top + height, left : left + width, :] = image
    if square == side:
        return canvas
    pixels = torch.from_numpy(canvas).reshape(-1, square, square, 3).permute(0, 3, 1, 2)
    resized = functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).reshape(*image.shape[:-3], side, side, 3).contiguous().numpy()

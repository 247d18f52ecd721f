"""Images on their way into Qwen2-VL's vision tower: sizes, resizing, normalisation, patches.

Dimensions: B images of one view, h and w pixels, G patches.
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

__all__ = ["patches", "resized", "smart_resize"]

MIN_PIXELS, MAX_PIXELS = 56 * 56, 16384 * 28 * 28  # of the published preprocessor
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
TEMPORAL = 2  # frames in a patch; a still image is shown twice


def smart_resize(
    height: int, width: int, factor: int, least: int = MIN_PIXELS, most: int = MAX_PIXELS
) -> tuple[int, int]:
    """(height, width) nearest to an image's own that are multiples of `factor` and have `least` to `most` pixels.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if max(height, width) > 200 * min(height, width):
        raise ValueError(f"An image of {height} x {width} pixels is too long; sides may differ by a factor of 200.")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > most:
        shrink = math.sqrt(height * width / most)
        rows, columns = (max(factor, math.floor(side / shrink / factor) * factor) for side in (height, width))
    elif rows * columns < least:
        grow = math.sqrt(least / (height * width))
        rows, columns = (math.ceil(side * grow / factor) * factor for side in (height, width))
    return rows, columns


def resized(images: UInt8[Tensor, "B h w 3"], first: tuple[int, int], factor: int) -> Float[Tensor, "B 3 H W"]:
    """Whole values 0-255 at (height, width) `first`, then at the size that `smart_resize` makes of it.

    The first step is bilinear without antialiasing, as OpenCV's; the second PIL's antialiased bicubic. Both agree with
    these libraries to a level or two in a few pixels of a thousand.
    """
    x = images.permute(0, 3, 1, 2)
    if tuple(x.shape[2:]) != first:
        x = F.interpolate(x.float(), first, mode="bilinear", align_corners=False).round().to(torch.uint8)
    size = smart_resize(x.shape[2], x.shape[3], factor)
    if tuple(x.shape[2:]) == size:
        return x.float()
    if x.device.type == "cpu":  # the 8-bit kernel is PIL's
        return F.interpolate(x, size, mode="bicubic", antialias=True).float()
    return F.interpolate(x.float(), size, mode="bicubic", antialias=True).round().clamp(0, 255)


def patches(pixels: Float[Tensor, "B 3 h w"], patch: int, merge: int) -> Float[Tensor, "B G F"]:
    """Normalised patches, flat as [channel, frame, row, column], those that become one token behind each other."""
    mean, std = (pixels.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    x = (pixels / 255 - mean) / std
    x = x.unflatten(3, (-1, merge, patch)).unflatten(2, (-1, merge, patch))  # B c H m p W n q
    x = x.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(1, 4)  # B G c p q
    return x[:, :, :, None].expand(-1, -1, -1, TEMPORAL, -1, -1).flatten(2)

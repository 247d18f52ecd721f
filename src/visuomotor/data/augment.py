"""Image augmentation that keeps words true: small shifts (boxes and points move along) and brightness changes.

Hue is never changed: instructions name colours. Crops and rotations are for texts that point at nothing in an image.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

__all__ = ["AugmentConfig", "Shift", "augment", "centre_crop", "draw_shift"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """`shift`: largest shift as a share of the image side; the others: largest relative change. 0 is off.

    crop       share of each side that is cut away before the image is stretched to its size again: anywhere in
               training, evenly at inference
    rotation   largest angle in degrees, either way; what comes from outside is black
    shared     all cameras of a sample get the same draws
    """

    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    channel: float = 0.0  # gain per colour channel, for white balance
    saturation: float = 0.0
    crop: float = 0.0
    rotation: float = 0.0
    shared: bool = False

    def __post_init__(self) -> None:
        for name in ("shift", "brightness", "contrast", "channel", "saturation", "crop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Augmentation {name} is {getattr(self, name)}; it must be at least 0 and below 1.")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"Augmentation rotation is {self.rotation} degrees; it must lie in 0-180.")

    @property
    def jitters(self) -> bool:
        return bool(self.brightness or self.contrast or self.channel)


@dataclass(frozen=True, slots=True)
class Shift:
    """An image moved right by `x` and down by `y`, as shares of its sides."""

    x: float = 0.0
    y: float = 0.0

    def box(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int] | None:
        """The moved box (0-1000), or None when less than half of it stays in the image."""
        x1, y1, x2, y2 = self.point(box[0], box[1]) + self.point(box[2], box[3])
        before = max(1, (box[2] - box[0]) * (box[3] - box[1]))
        moved = (_clip(x1), _clip(y1), _clip(x2), _clip(y2))
        return moved if 2 * (moved[2] - moved[0]) * (moved[3] - moved[1]) >= before else None

    def point(self, x: int, y: int) -> tuple[int, int]:
        return round(x + 1000 * self.x), round(y + 1000 * self.y)

    def image(self, image: np.ndarray) -> np.ndarray:
        """uint8[h, w, 3] moved by whole pixels; the border is repeated."""
        height, width = image.shape[:2]
        rows = np.clip(np.arange(height) - round(self.y * height), 0, height - 1)
        columns = np.clip(np.arange(width) - round(self.x * width), 0, width - 1)
        return image[rows[:, None], columns]


def draw_shift(config: AugmentConfig, rng: np.random.Generator) -> Shift:
    """One shift per image."""
    if not config.shift:
        return Shift()
    x, y = rng.uniform(-config.shift, config.shift, size=2)
    return Shift(float(x), float(y))


def augment(image: np.ndarray, shift: Shift, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    """The shifted, jittered image uint8[h, w, 3]; the given one stays as it is."""
    if shift.x or shift.y:
        image = shift.image(image)
    if config.crop:
        image = _cropped(image, config.crop, rng)
    if config.rotation:
        angle = rng.uniform(-config.rotation, config.rotation)
        image = np.asarray(Image.fromarray(image).rotate(angle))
    if config.jitters:
        image = _jitter(image, config, rng)
    if config.saturation:
        image = _saturated(image, 1 + config.saturation * rng.uniform(-1, 1))
    return image


def centre_crop(image: np.ndarray, crop: float) -> np.ndarray:
    """What `AugmentConfig.crop` does at inference: uint8[h, w, 3], a little closer."""
    return _cropped(image, crop, None) if crop else image


def _cropped(image: np.ndarray, crop: float, rng: np.random.Generator | None) -> np.ndarray:
    height, width = image.shape[:2]
    rows, columns = (max(1, int(side * (1 - crop))) for side in (height, width))
    spare = (height - rows, width - columns)
    top, left = (side // 2 if rng is None else int(rng.integers(side + 1)) for side in spare)
    part = np.ascontiguousarray(image[top : top + rows, left : left + columns])
    pixels = torch.from_numpy(part).permute(2, 0, 1)[None]
    stretched = functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return stretched[0].permute(1, 2, 0).contiguous().numpy()


def _saturated(image: np.ndarray, factor: float) -> np.ndarray:
    """Every pixel moved away from its grey, by ITU-R 601's weights, or towards it."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return np.clip(np.rint(factor * image + (1 - factor) * grey[..., None]), 0, 255).astype(np.uint8)


def _jitter(image: np.ndarray, config: AugmentConfig, rng: np.random.Generator) -> np.ndarray:
    brightness, contrast = rng.uniform(-1, 1, size=2) * (config.brightness, config.contrast)
    channel = 1 + rng.uniform(-1, 1, size=3) * config.channel
    level = np.arange(256)[:, None]
    table = ((level - 128) * (1 + contrast) + 128) * (1 + brightness) * channel
    table = np.clip(np.rint(table), 0, 255).astype(np.uint8)
    out = np.empty_like(image)
    for c in range(3):
        np.take(table[:, c], image[..., c], out=out[..., c])
    return out


def _clip(value: int) -> int:
    return min(1000, max(0, value))

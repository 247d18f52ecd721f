"""Vision towers with their projectors. Dimensions: B images, S tokens of each, W width of the language model."""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.nn.vision import PerceptionEncoder, VisionConfig, prepare_images, resize_bytes
from visuomotor.nn.vit import ViT, ViTConfig

__all__ = ["PerceptionVision", "PrismaticVision", "SiglipVision", "Vision"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Vision(nn.Module, ABC):
    """A vision tower, or several, in front of `projector`. `reads_text`: its blocks are modulated by the text."""

    projector: nn.Module
    reads_text: bool = False

    @abstractmethod
    def prepare(self, images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B C size size"]:
        """What `forward` takes; normalisations for several towers stand one behind the other in C."""

    @abstractmethod
    def forward(
        self, pixels: Float[Tensor, "B C size size"], text: Float[Tensor, "B W"] | None = None
    ) -> tuple[Float[Tensor, "B S W"], dict[str, Tensor]]:
        """Tokens for the language model, and features by name for heads that read them.

        text: mean embedding of each image's text, for towers with `reads_text`.
        """

    @abstractmethod
    def units(self) -> list[nn.Module]:
        """Repeated layers, each of which may be sharded or compiled by itself."""


class PerceptionVision(Vision):
    """A Perception Encoder with its convolutions, and one linear; images are made square by bars of `pad`."""

    projector: nn.Linear

    def __init__(self, config: VisionConfig, width: int, pad: Literal["grey", "black"]) -> None:
        super().__init__()
        self.pad: Literal["grey", "black"] = pad
        self.tower = PerceptionEncoder(config)
        self.projector = nn.Linear(config.output_width, width, bias=False)

    def prepare(self, images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B 3 size size"]:
        return prepare_images(images, self.tower.config.image_size, self.pad)

    def forward(
        self, pixels: Float[Tensor, "B 3 size size"], text: Tensor | None = None
    ) -> tuple[Float[Tensor, "B S W"], dict[str, Tensor]]:
        return self.projector(self.tower(pixels.to(self.projector.weight.dtype))), {}

    def units(self) -> list[nn.Module]:
        return list(self.tower.transformer.resblocks)


class PrismaticVision(Vision):
    """DINOv2 and SigLIP side by side, and a projector of three linears, four times as wide inside as both towers.

    Images are resized without keeping their aspect. Patches come from the towers' second-to-last blocks, without a
    norm. Feature "prefix" [B, P, D]: DINOv2's class token and registers, from the same block. Towers with FiLM are
    modulated by the text.
    """

    projector: nn.Sequential

    def __init__(self, dinov2: ViTConfig, siglip: ViTConfig, width: int) -> None:
        super().__init__()
        self.dinov2, self.siglip = ViT(dinov2), ViT(siglip)
        self.reads_text = bool(dinov2.film)
        inputs = dinov2.width + siglip.width
        layers = [nn.Linear(inputs, 4 * inputs), nn.GELU(), nn.Linear(4 * inputs, width), nn.GELU()]
        self.projector = nn.Sequential(*layers, nn.Linear(width, width))

    def prepare(self, images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B 6 size size"]:
        """Images normalised for DINOv2, and in the last three channels for SigLIP."""
        x = resize_bytes(images.permute(0, 3, 1, 2), self.dinov2.config.image_size).float() / 255
        mean, std = _imagenet(x.device)
        return torch.cat([(x - mean) / std, (x - 0.5) / 0.5], dim=1)

    def forward(
        self, pixels: Float[Tensor, "B 6 size size"], text: Float[Tensor, "B W"] | None = None
    ) -> tuple[Float[Tensor, "B S W"], dict[str, Tensor]]:
        prefix, patches = self.dinov2(pixels[:, :3], condition=text)
        _, others = self.siglip(pixels[:, 3:], condition=text)
        return self.projector(torch.cat([patches, others], dim=-1)), {"prefix": prefix}

    def units(self) -> list[nn.Module]:
        return [*self.dinov2.blocks, *self.siglip.blocks]


@lru_cache(maxsize=8)
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation [3, 1, 1], uploaded once per device: an upload in each sample would make the host wait."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


class SiglipVision(Vision):
    """A SigLIP with its last norm, and one linear with a bias; images are made square by black bars (PaliGemma)."""

    projector: nn.Linear

    def __init__(self, config: ViTConfig, width: int) -> None:
        super().__init__()
        self.tower = ViT(config)
        self.projector = nn.Linear(config.width, width)

    def prepare(self, images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B 3 size size"]:
        return letterboxed(images, self.tower.config.image_size)

    def forward(
        self, pixels: Float[Tensor, "B 3 size size"], text: Tensor | None = None
    ) -> tuple[Float[Tensor, "B S W"], dict[str, Tensor]]:
        _, tokens = self.tower(pixels, -1, norm=True)
        return self.projector(tokens.to(self.projector.weight.dtype)), {}

    def units(self) -> list[nn.Module]:
        return list(self.tower.blocks)


def letterboxed(images: UInt8[Tensor, "B h w 3"], size: int) -> Float[Tensor, "B 3 size size"]:
    """Antialiased bilinear resize to fit a square, centred on black, scaled to [-1, 1]: PIL's rule, as in openpi."""
    x = images.permute(0, 3, 1, 2)
    ratio = max(x.shape[2] / size, x.shape[3] / size)
    height, width = int(x.shape[2] / ratio), int(x.shape[3] / ratio)
    if (height, width) != tuple(x.shape[2:]):
        source = x if x.device.type == "cpu" else x.float()  # the 8-bit kernel of CPUs is PIL's
        x = F.interpolate(source, (height, width), mode="bilinear", antialias=True)
        x = x if source.dtype == torch.uint8 else x.round().clamp(0, 255)
    top, left = (size - height) // 2, (size - width) // 2
    x = F.pad(x, (left, size - width - left, top, size - height - top))
    return x.float() / 255 * 2 - 1

"""Residual networks (He et al., 2015; stride in the 3 x 3 convolution) under torchvision's names, with FiLM by stage.

Dimensions: B images, C channels of the last stage.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.nn.film import FiLM
from visuomotor.spelling import require_choices

__all__ = ["RESNET_SIZES", "ResNet", "ResNetConfig", "imagenet_pixels"]

EXPANSION = 4  # of a bottleneck's output over its inner width
GROUP_CHANNELS = 16  # channels that a group norm treats together, where that many divide
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Defaults are ResNet-50.

    widths, depths   channels and blocks of each stage; stages after the first halve the image
    bottleneck       1 x 1, 3 x 3, 1 x 1 convolutions instead of two 3 x 3
    norm             "batch", as published and for public weights, or "group": no statistics over a batch, which would
                     mix robots, and differ between training and acting and between micro-batches
    """

    stem: int = 64
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    norm: Literal["batch", "group"] = "batch"

    def __post_init__(self) -> None:
        if len(self.widths) != len(self.depths) or not self.widths or min(*self.widths, *self.depths, self.stem) < 1:
            raise ValueError(f"widths {self.widths} and depths {self.depths} must name as many stages, all positive.")
        if self.bottleneck and any(width % EXPANSION for width in self.widths):
            raise ValueError(f"widths {self.widths} of a bottleneck network must be multiples of {EXPANSION}.")
        require_choices(self)


RESNET_SIZES: dict[str, dict] = {
    "nano": {"stem": 16, "widths": (16, 32, 64, 128), "depths": (1, 1, 1, 1), "bottleneck": False},
    "18": {"widths": (64, 128, 256, 512), "depths": (2, 2, 2, 2), "bottleneck": False},
    "50": {},
}


class Block(nn.Module):
    """A residual block; `downsample` projects its input where widths or sizes differ."""

    def __init__(self, config: ResNetConfig, before: int, width: int, stride: int) -> None:
        super().__init__()
        inner = width // EXPANSION if config.bottleneck else width
        kernels = (1, 3, 1) if config.bottleneck else (3, 3)
        strided = 1 if config.bottleneck else 0
        self.depth = len(kernels)
        channels = before
        for i, kernel in enumerate(kernels):
            out = width if i == len(kernels) - 1 else inner
            self.add_module(f"conv{i + 1}", _convolution(channels, out, kernel, stride if i == strided else 1))
            self.add_module(f"bn{i + 1}", _norm(config, out))
            channels = out
        self.downsample = None
        if stride != 1 or before != width:
            self.downsample = nn.Sequential(_convolution(before, width, 1, stride), _norm(config, width))

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for i in range(1, self.depth + 1):
            h = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(h))
            h = F.relu(h) if i < self.depth else h
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Images to one vector each. `condition_dim`: width of a condition that modulates every stage's output."""

    def __init__(self, config: ResNetConfig, condition_dim: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.conv1 = _convolution(3, config.stem, 7, 2)
        self.bn1 = _norm(config, config.stem)
        before = config.stem
        for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            blocks = [Block(config, before, width, 2 if i else 1)]
            blocks += [Block(config, width, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            before = width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.film = None if condition_dim is None else nn.ModuleList(FiLM(condition_dim, w) for w in config.widths)

    def forward(
        self, images: Float[Tensor, "B 3 h w"], condition: Float[Tensor, "B D"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Features averaged over the image.

        Raises:
            ValueError: a condition for a network without FiLM, or none for one with it.
        """
        if (condition is None) != (self.film is None):
            raise ValueError("Give a condition exactly where the network was built with a condition_dim.")
        h = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), kernel_size=3, stride=2, padding=1)
        for i in range(len(self.config.widths)):
            h = self.get_submodule(f"layer{i + 1}")(h)
            if self.film is not None:
                h = self.film[i](h, condition)
        return h.mean(dim=(2, 3))


def imagenet_pixels(images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B 3 h w"]:
    """Images as networks for ImageNet take them."""
    mean, std = (torch.tensor(values, device=images.device) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)


def _norm(config: ResNetConfig, channels: int) -> nn.Module:
    if config.norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = channels // GROUP_CHANNELS if channels % GROUP_CHANNELS == 0 else 1
    return nn.GroupNorm(groups, channels)

"""Vision towers with their projectors. Dimensions: B images, S tokens of each, W width of the language model."""

from abc import ABC, abstractmethod
from typing import Literal

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from visuomotor.nn.vision import PerceptionEncoder, VisionConfig, prepare_images

__all__ = ["PerceptionVision", "Vision"]


class Vision(nn.Module, ABC):
    """A vision tower, or several, in front of `projector`."""

    projector: nn.Module

    @abstractmethod
    def prepare(self, images: UInt8[Tensor, "B h w 3"]) -> Float[Tensor, "B C size size"]:
        """What `forward` takes; normalisations for several towers stand one behind the other in C."""

    @abstractmethod
    def forward(self, pixels: Float[Tensor, "B C size size"]) -> tuple[Float[Tensor, "B S W"], dict[str, Tensor]]:
        """Tokens for the language model, and features by name for heads that read them."""

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

    def forward(self, pixels: Float[Tensor, "B 3 size size"]) -> tuple[Float[Tensor, "B S W"], dict[str, Tensor]]:
        return self.projector(self.tower(pixels.to(self.projector.weight.dtype))), {}

    def units(self) -> list[nn.Module]:
        return list(self.tower.transformer.resblocks)

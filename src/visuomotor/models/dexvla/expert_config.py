"""Every dimension and option of Stage 1, the diffusion expert on its own, and its named sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from visuomotor.codec import update
from visuomotor.heads.diffusion_config import SCALEDP_SIZES, ScaleDPConfig
from visuomotor.nn.resnet import RESNET_SIZES, ResNetConfig
from visuomotor.spelling import did_you_mean

__all__ = ["SIZES", "DexVLAExpertConfig", "first_format"]

_NANO_HEAD = ScaleDPConfig(
    action_dim=8, state_dim=8, horizon=8, cond_dim=128, noise_draws=4, shared_time=False, width=128, depth=4, heads=4,
    combine_width=256,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DexVLAExpertConfig:
    """Defaults are the nano size.

    image_roles           cameras, each with an encoder of its own
    image_size            side of their images in pixels (only `cost` reads it)
    encoder               a size of `RESNET_SIZES`; encoder_norm: see `ResNetConfig.norm`
    sentence_dim          width of the sentence embedding, the processor's
    head_per_embodiment   layers for each robot on the shared trunk, else all share one set, padded to the head's
                          `action_dim` and `state_dim`; its `embodiments`, `action_dims` and `state_dims` are filled in
                          from the data where a run builds the model
    """

    head: ScaleDPConfig = _NANO_HEAD
    image_roles: tuple[str, ...] = ("scene", "wrist")
    image_size: int = 96
    encoder: str = "nano"
    encoder_norm: Literal["batch", "group"] = "group"
    sentence_dim: int = 256
    head_per_embodiment: bool = True

    def __post_init__(self) -> None:
        if self.encoder not in RESNET_SIZES:
            hint = did_you_mean(self.encoder, RESNET_SIZES)
            raise ValueError(f"There is no encoder {self.encoder!r}.{hint} Known: {', '.join(RESNET_SIZES)}.")
        if not self.image_roles or len(set(self.image_roles)) < len(self.image_roles):
            raise ValueError(f"image_roles must name at least one camera, each once; got {list(self.image_roles)}.")
        if self.head.embodiments and not self.head_per_embodiment:
            raise ValueError(
                f"head_per_embodiment is off, but {list(self.head.embodiments)} are to have layers; choose one."
            )
        _ = self.resnet  # refuses what cannot be built

    @property
    def resnet(self) -> ResNetConfig:
        return ResNetConfig(norm=self.encoder_norm, **RESNET_SIZES[self.encoder])

    @property
    def action_dim(self) -> int:
        return self.head.action_dim

    @property
    def state_dim(self) -> int:
        return self.head.state_dim

    @property
    def horizon(self) -> int:
        return self.head.horizon


def _paper(size: str) -> DexVLAExpertConfig:
    """ResNet-50 for each of three cameras, DistilBERT's 768 numbers, chunks of 50 actions of up to 14 numbers."""
    return DexVLAExpertConfig(
        head=ScaleDPConfig(**SCALEDP_SIZES[size]),
        image_roles=("scene", "left_wrist", "right_wrist"),
        image_size=320,
        encoder="50",
        sentence_dim=768,
    )


SIZES = {"nano": DexVLAExpertConfig(), "base": _paper("H"), **{f"base-{size}": _paper(size) for size in "SBL"}}

_OWN = ("image_roles", "image_size", "encoder", "encoder_norm", "sentence_dim", "head_per_embodiment")


def first_format(fields: Mapping[str, Any]) -> DexVLAExpertConfig:
    """The configuration of a checkpoint of the first format: all but its own fields were, and are, the head's."""
    renamed = {n if n in _OWN else f"head.{n.removeprefix('head_')}": value for n, value in fields.items()}
    return update(SIZES["nano"], renamed)

"""Every dimension and option of Stage 1, the diffusion expert on its own, and its named sizes."""

from dataclasses import dataclass, fields
from typing import Literal

from visuomotor.models.dexvla.config import SCALEDP_SIZES, ScaleDPConfig, TimeTable
from visuomotor.nn.resnet import RESNET_SIZES, ResNetConfig
from visuomotor.spelling import did_you_mean

__all__ = ["SIZES", "DexVLAExpertConfig"]

_SHARED = {f.name for f in fields(ScaleDPConfig)}


@dataclass(frozen=True, kw_only=True)
class DexVLAExpertConfig:
    """Defaults are the nano size. What is not described here is the head's, see `ScaleDPConfig`.

    image_roles           cameras, each with an encoder of its own
    image_size            side of their images in pixels (only `cost` reads it)
    encoder               a size of `RESNET_SIZES`; encoder_norm: see `ResNetConfig.norm`
    sentence_dim          width of the sentence embedding, the processor's
    head_per_embodiment   layers for each robot on the shared trunk, else all share one set, padded to `action_dim` and
                          `state_dim`; `embodiments`, `action_dims` and `state_dims` are filled in from the data where a
                          run builds the model
    """

    image_roles: tuple[str, ...] = ("scene", "wrist")
    image_size: int = 96
    encoder: str = "nano"
    encoder_norm: Literal["batch", "group"] = "group"
    sentence_dim: int = 256

    head_per_embodiment: bool = True
    embodiments: tuple[str, ...] = ()
    action_dims: tuple[int, ...] = ()
    state_dims: tuple[int, ...] = ()
    action_dim: int = 8
    state_dim: int = 8
    cond_dim: int = 128
    horizon: int = 8
    head_width: int = 128
    head_depth: int = 4
    head_heads: int = 4
    head_combine_width: int = 256
    initialisation: Literal["dit", "published"] = "dit"
    denoise_steps: int = 10
    noise_draws: int = 4
    shared_time: bool = False
    mean_over: Literal["valid", "all"] = "valid"
    time_table: TimeTable = "float32"

    def __post_init__(self) -> None:
        if self.encoder not in RESNET_SIZES:
            hint = did_you_mean(self.encoder, RESNET_SIZES)
            raise ValueError(f"There is no encoder {self.encoder!r}.{hint} Known: {', '.join(RESNET_SIZES)}.")
        if not self.image_roles or len(set(self.image_roles)) < len(self.image_roles):
            raise ValueError(f"image_roles must name at least one camera, each once; got {list(self.image_roles)}.")
        if self.embodiments and not self.head_per_embodiment:
            raise ValueError(
                f"head_per_embodiment is off, but {list(self.embodiments)} are to have layers; choose one."
            )
        _ = self.policy_head, self.resnet  # they refuse what cannot be built

    @property
    def policy_head(self) -> ScaleDPConfig:
        """The configuration of the action head."""
        same = {f.name: getattr(self, f.name) for f in fields(self) if f.name in _SHARED}
        return ScaleDPConfig(
            **same,
            width=self.head_width,
            depth=self.head_depth,
            heads=self.head_heads,
            combine_width=self.head_combine_width,
        )

    @property
    def resnet(self) -> ResNetConfig:
        return ResNetConfig(norm=self.encoder_norm, **RESNET_SIZES[self.encoder])


def _paper(size: str) -> dict:
    """ResNet-50 for each of three cameras, DistilBERT's 768 numbers, chunks of 50 actions of up to 14 numbers."""
    return {
        "image_roles": ("scene", "left_wrist", "right_wrist"), "image_size": 320, "encoder": "50", "sentence_dim": 768,
        "action_dim": 14, "state_dim": 14, "cond_dim": 1536, "horizon": 50, "noise_draws": 1, "shared_time": True,
        "head_combine_width": 1024,
        **{f"head_{name}": value for name, value in SCALEDP_SIZES[size].items()},
    }  # fmt: skip


SIZES: dict[str, dict] = {"nano": {}, "base": _paper("H"), **{f"base-{size}": _paper(size) for size in "SBL"}}

"""Every dimension and option of a DexVLA, and its named sizes."""

from dataclasses import dataclass
from typing import Any, Literal

from visuomotor.models.dexvla.config import SCALEDP_SIZES, HeadConfig, ScaleDPConfig, TimeTable, UNetConfig
from visuomotor.models.dexvla.images import smart_resize

__all__ = ["SIZES", "DexVLAConfig"]


@dataclass(frozen=True, kw_only=True)
class DexVLAConfig:
    """Defaults are the nano size, which is trained from nothing.

    `SIZES["base"]` is Qwen2-VL-2B with ScaleDP-H, the published model; "base-L" (and "-Ti", "-S", "-B") have a smaller
    ScaleDP, "base-UNet" the convolutional head.

    image_height, image_width   to which every image is brought first, whatever its aspect (published: 240, 320), before
                          Qwen2-VL's rule rounds both to multiples of patch_size * merge
    merge                 patches by merge x merge become one token
    num_views             cameras when all are present (only `cost` reads it)
    vision_mlp_ratio      hidden width of the vision blocks' MLPs, in widths
    mrope_sections        frequencies of the rotary code that turn by time, height and width
    initializer_range     standard deviation of fresh weights of language model, vision tower and projectors
    projector_layernorm   a LayerNorm behind each linear layer of both projectors, as the paper says; the published
                          code has none
    head                  "scaledp", a diffusion transformer, or "unet", the convolutional baseline; head_* and the
                          fields named as in ScaleDPConfig and UNetConfig are theirs
    head_per_embodiment   layers for each robot on the shared trunk; `embodiments`, `action_dims` and `state_dims` are
                          filled in from the data where a run builds the model
    text_weight           alpha of L = L_diffusion + alpha L_text
    end_id, image_id, pad_id    tokens that end a turn, that stand for an image, and that fill behind a text
    """

    image_height: int = 96
    image_width: int = 96
    patch_size: int = 12
    merge: int = 2
    num_views: int = 2
    vision_width: int = 96
    vision_layers: int = 3
    vision_heads: int = 3
    vision_mlp_ratio: int = 2

    vocab_size: int = 1024
    width: int = 128
    mlp_width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    mrope_sections: tuple[int, int, int] = (4, 6, 6)
    initializer_range: float = 0.06

    projector_layernorm: bool = False
    head: Literal["scaledp", "unet"] = "scaledp"
    action_dim: int = 8
    state_dim: int = 8
    horizon: int = 8
    head_width: int = 128
    head_depth: int = 4
    head_heads: int = 4
    head_combine_width: int = 256
    head_per_embodiment: bool = False
    embodiments: tuple[str, ...] = ()
    action_dims: tuple[int, ...] = ()
    state_dims: tuple[int, ...] = ()
    initialisation: Literal["dit", "published"] = "dit"
    unet_channels: tuple[int, ...] = (64, 128, 256)
    unet_step_width: int = 64
    denoise_steps: int = 10
    noise_draws: int = 8
    shared_time: bool = False
    mean_over: Literal["valid", "all"] = "valid"
    time_table: TimeTable = "float32"
    text_weight: float = 1.0

    end_id: int = 2
    image_id: int = 1
    pad_id: int = 0

    def __post_init__(self) -> None:
        for name in ("image_height", "image_width", "patch_size", "merge", "num_views", "vision_layers", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(
                f"Width {self.width}, {self.heads} heads and {self.kv_heads} kv_heads cannot be built: each divides "
                f"the one before it."
            )
        if 2 * sum(self.mrope_sections) != self.width // self.heads or len(self.mrope_sections) != 3:
            raise ValueError(
                f"mrope_sections {self.mrope_sections} are three numbers of frequencies, which add up to half a head "
                f"of {self.width // self.heads}."
            )
        if self.vision_width % self.vision_heads or (self.vision_width // self.vision_heads) % 4:
            raise ValueError(
                f"Vision width {self.vision_width} over {self.vision_heads} heads: 2-D rotary needs a head width that "
                f"is a multiple of 4."
            )
        if self.head not in ("scaledp", "unet"):
            raise ValueError(f"head is {self.head!r}, but must be 'scaledp' or 'unet'.")
        if self.head == "unet" and (self.head_per_embodiment or self.embodiments):
            raise ValueError("All robots share the UNet's layers; take head='scaledp' for layers of their own.")
        if self.embodiments and not self.head_per_embodiment:
            raise ValueError(f"embodiments are {self.embodiments}, but head_per_embodiment is off; switch it on.")
        _ = self.policy_head  # refuses what the head cannot be

    @property
    def policy_head(self) -> HeadConfig:
        """The configuration of the action head."""
        shared: dict[str, Any] = {
            "action_dim": self.action_dim, "state_dim": self.state_dim, "cond_dim": self.width,
            "horizon": self.horizon, "denoise_steps": self.denoise_steps, "noise_draws": self.noise_draws,
            "shared_time": self.shared_time,
            "mean_over": self.mean_over, "time_table": self.time_table,
        }  # fmt: skip
        if self.head == "unet":
            return UNetConfig(**shared, channels=self.unet_channels, step_width=self.unet_step_width)
        return ScaleDPConfig(
            **shared,
            width=self.head_width,
            depth=self.head_depth,
            heads=self.head_heads,
            combine_width=self.head_combine_width,
            embodiments=self.embodiments,
            action_dims=self.action_dims,
            state_dims=self.state_dims,
            initialisation=self.initialisation,
        )

    @property
    def image_grid(self) -> tuple[int, int]:
        """Tokens of an image, as (rows, columns)."""
        factor = self.patch_size * self.merge
        rows, columns = smart_resize(self.image_height, self.image_width, factor)
        return rows // factor, columns // factor


_BASE = {
    "image_height": 240,
    "image_width": 320,
    "patch_size": 14,
    "num_views": 3,
    "vision_width": 1280,
    "vision_layers": 32,
    "vision_heads": 16,
    "vision_mlp_ratio": 4,
    "vocab_size": 151936,
    "width": 1536,
    "mlp_width": 8960,
    "layers": 28,
    "heads": 12,
    "kv_heads": 2,
    "mrope_sections": (16, 24, 24),
    "initializer_range": 0.02,
    "action_dim": 14,
    "state_dim": 14,
    "horizon": 50,
    "head_combine_width": 1024,
    "unet_channels": (256, 512, 1024),
    "unet_step_width": 256,
    "noise_draws": 1,
    "shared_time": True,
    "end_id": 151645,
    "image_id": 151655,
    "pad_id": 151643,
}


def _with_scaledp(size: str) -> dict[str, Any]:
    return {**_BASE, **{f"head_{name}": value for name, value in SCALEDP_SIZES[size].items()}}


SIZES: dict[str, dict] = {
    "nano": {},
    "base": _with_scaledp("H"),
    **{f"base-{size}": _with_scaledp(size) for size in ("Ti", "S", "B", "L")},
    "base-UNet": {**_BASE, "head": "unet", "horizon": 16},
}

"""Every dimension and option of a DexVLA, and its named sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from visuomotor.backbones.qwen2_vl import Qwen2VLConfig, QwenDecoderConfig, QwenVisionConfig
from visuomotor.codec import update
from visuomotor.heads.diffusion_config import SCALEDP_SIZES, ScaleDPConfig, UNetConfig
from visuomotor.models.vla import Routing

__all__ = ["SIZES", "DexVLAConfig", "first_format"]


_NANO_VISION = QwenVisionConfig(patch_size=12, width=96, layers=3, heads=3, mlp_ratio=2)
_NANO_LLM = QwenDecoderConfig(
    vocab_size=1024, width=128, mlp_width=256, layers=4, heads=4, kv_heads=2, mrope_sections=(4, 6, 6)
)
_NANO_SHAPES: dict[str, Any] = {
    "action_dim": 8, "state_dim": 8, "horizon": 8, "cond_dim": 128, "noise_draws": 8, "shared_time": False,
}  # fmt: skip
_NANO_HEAD = ScaleDPConfig(**_NANO_SHAPES, width=128, depth=4, heads=4, combine_width=256)


@dataclass(frozen=True, kw_only=True)
class DexVLAConfig:
    """Defaults are the nano size, which is trained from nothing.

    `SIZES["base"]` is Qwen2-VL-2B with ScaleDP-H, the published model; "base-L" (and "-Ti", "-S", "-B") have a smaller
    ScaleDP, "base-UNet" and "nano-UNet" the convolutional head.

    head                  a diffusion transformer, or the convolutional baseline; its `cond_dim` follows the language
                          model's width
    image_height, image_width   to which every image is brought first, whatever its aspect (published: 240, 320), before
                          Qwen2-VL's rule rounds both to multiples of patch_size * merge
    num_views             cameras when all are present (only `cost` reads it)
    initializer_range     standard deviation of fresh weights of language model, vision tower and projectors
    projector_layernorm   a LayerNorm behind each linear layer of both projectors, as the paper says; the published
                          code has none
    head_per_embodiment   layers for each robot on the shared trunk; the head's `embodiments`, `action_dims` and
                          `state_dims` are filled in from the data where a run builds the model
    text_weight           alpha of L = L_diffusion + alpha L_text
    gradient_decoupling   the diffusion loss does not reach the VLM: stop-gradient on the states that the head reads;
                          decoupled_sources: indices into the mixture for which that is so; None: all
    end_id, image_id, pad_id    tokens that end a turn, that stand for an image, and that fill behind a text
    """

    vision: QwenVisionConfig = _NANO_VISION
    llm: QwenDecoderConfig = _NANO_LLM
    head: ScaleDPConfig | UNetConfig = _NANO_HEAD
    image_height: int = 96
    image_width: int = 96
    num_views: int = 2
    initializer_range: float = 0.06
    projector_layernorm: bool = False
    head_per_embodiment: bool = False
    text_weight: float = 1.0
    gradient_decoupling: bool = False
    decoupled_sources: tuple[int, ...] | None = None
    end_id: int = 2
    image_id: int = 1
    pad_id: int = 0

    def __post_init__(self) -> None:
        if self.num_views < 1:
            raise ValueError(f"num_views is {self.num_views}, but must be at least 1.")
        if self.gradient_decoupling and self.decoupled_sources is None and not self.text_weight:
            raise ValueError(
                "gradient_decoupling is on and text_weight is 0, so nothing would train the language model; switch "
                "gradient_decoupling off, or give the text a weight."
            )
        if isinstance(self.head, UNetConfig):
            if self.head_per_embodiment:
                raise ValueError("All robots share the UNet's layers; take a ScaleDP for layers of their own.")
        elif self.head.embodiments and not self.head_per_embodiment:
            raise ValueError(f"embodiments are {self.head.embodiments}, but head_per_embodiment is off; switch it on.")
        # The condition is a state of the language model, so its width is no choice of the head's.
        object.__setattr__(self, "head", replace(self.head, cond_dim=self.llm.width))
        _ = self.backbone, self.routing  # refuse what cannot be built

    @property
    def vocab_size(self) -> int:
        return self.llm.vocab_size

    @property
    def action_dim(self) -> int:
        return self.head.action_dim

    @property
    def state_dim(self) -> int:
        return self.head.state_dim

    @property
    def horizon(self) -> int:
        return self.head.horizon

    @property
    def backbone(self) -> Qwen2VLConfig:
        """The vision-language model."""
        return Qwen2VLConfig(**{name: getattr(self, name) for name in _OF_BACKBONE})

    @property
    def image_grid(self) -> tuple[int, int]:
        """Tokens of an image, as (rows, columns)."""
        return self.backbone.image_grid

    @property
    def routing(self) -> Routing:
        """Gradients from the head into the language model, and the weight of its text."""
        return Routing(
            decoupled=self.gradient_decoupling, sources=self.decoupled_sources, weights={"text": self.text_weight}
        )


_OF_BACKBONE = (
    "vision", "llm", "image_height", "image_width", "initializer_range", "end_id", "image_id", "pad_id",
)  # fmt: skip


_BASE = DexVLAConfig(
    vision=QwenVisionConfig(patch_size=14, width=1280, layers=32, heads=16, mlp_ratio=4),
    llm=QwenDecoderConfig(
        vocab_size=151936, width=1536, mlp_width=8960, layers=28, heads=12, kv_heads=2, mrope_sections=(16, 24, 24)
    ),
    head=ScaleDPConfig(**SCALEDP_SIZES["H"]),
    image_height=240,
    image_width=320,
    num_views=3,
    initializer_range=0.02,
    end_id=151645,
    image_id=151655,
    pad_id=151643,
)

SIZES = {
    "nano": DexVLAConfig(),
    "nano-UNet": DexVLAConfig(head=UNetConfig(**_NANO_SHAPES, channels=(64, 128, 256), step_width=64)),
    "base": _BASE,
    **{f"base-{size}": replace(_BASE, head=ScaleDPConfig(**SCALEDP_SIZES[size])) for size in ("Ti", "S", "B", "L")},
    "base-UNet": replace(_BASE, head=UNetConfig(action_dim=14, state_dim=14)),
}

_HEAD = ("action_dim", "state_dim", "horizon", "denoise_steps", "noise_draws", "shared_time", "mean_over", "time_table")
_FIRST_FORMAT = {
    **{name: f"vision.{name}" for name in ("patch_size", "merge")},
    **{f"vision_{name}": f"vision.{name}" for name in ("width", "layers", "heads", "mlp_ratio")},
    **{
        name: f"llm.{name}"
        for name in ("vocab_size", "width", "mlp_width", "layers", "heads", "kv_heads", "mrope_sections")
    },
    **{name: f"head.{name}" for name in _HEAD},
}
# Both heads' fields stood beside each other, whichever the model had.
_OF_SCALEDP = {
    **{f"head_{name}": f"head.{name}" for name in ("width", "depth", "heads", "combine_width")},
    **{name: f"head.{name}" for name in ("embodiments", "action_dims", "state_dims", "initialisation")},
}
_OF_UNET = {f"unet_{name}": f"head.{name}" for name in ("channels", "step_width")}


def first_format(fields: Mapping[str, Any]) -> DexVLAConfig:
    """The configuration of a checkpoint of the first format, whose parts were not nested."""
    unet = fields.get("head") == "unet"
    names = {**_FIRST_FORMAT, **(_OF_UNET if unet else _OF_SCALEDP)}
    dropped = {"head", *(_OF_SCALEDP if unet else _OF_UNET)}
    renamed = {names.get(name, name): value for name, value in fields.items() if name not in dropped}
    return update(SIZES["nano-UNet" if unet else "nano"], renamed)

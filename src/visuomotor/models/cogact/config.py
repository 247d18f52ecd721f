"""Dimensions of CogACT's parts, whose defaults are those of the published models, and of the whole, by size."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from visuomotor.codec import update
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.diffusion import spaced_times
from visuomotor.nn.vit import DINOV2_LARGE, SIGLIP_SO400M, ViTConfig

__all__ = [
    "ACTION_MODEL_SIZES",
    "LLAMA2_7B",
    "SIZES",
    "ActionModelConfig",
    "CogACTConfig",
    "VLMConfig",
    "first_format",
    "first_format_names",
]

LLAMA2_7B = DecoderConfig(
    width=4096, mlp_width=11008, layers=32, heads=32, kv_heads=32, head_dim=128, vocab_size=32064, rope_theta=1e4,
    norm_eps=1e-5, qk_norm=False,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ActionModelConfig:
    """The diffusion transformer that makes an action chunk of a cognition feature; the default is size B.

    token_size                 width of the cognition feature
    horizon                    actions in a chunk: the current one and those after it
    unconditional_dropout      share of training samples whose feature is replaced by the learned unconditional vector
    repeated_diffusion_steps   noise draws for each sample of a training step. Documented is 8; the published training
                               code never passes its setting on, so published weights were trained with 4
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    token_size: int = 4096
    action_dim: int = 7
    horizon: int = 16
    unconditional_dropout: float = 0.1
    diffusion_steps: int = 100
    repeated_diffusion_steps: int = 8

    def __post_init__(self) -> None:
        names = ("width", "depth", "heads", "token_size", "action_dim", "horizon", "diffusion_steps")
        for name in (*names, "repeated_diffusion_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.width % self.heads:
            raise ValueError(f"Width {self.width} does not split into {self.heads} heads.")
        if not 0 <= self.unconditional_dropout < 1:
            raise ValueError(f"unconditional_dropout is {self.unconditional_dropout}, but must be in [0, 1).")


ACTION_MODEL_SIZES = {
    "S": ActionModelConfig(width=384, depth=6, heads=4),
    "B": ActionModelConfig(),
    "L": ActionModelConfig(width=1024, depth=24, heads=16),
}


@dataclass(frozen=True, kw_only=True)
class VLMConfig:
    """Two vision towers side by side, a projector whose hidden width is four times theirs, a language model."""

    dinov2: ViTConfig = DINOV2_LARGE
    siglip: ViTConfig = SIGLIP_SO400M
    llm: DecoderConfig = LLAMA2_7B

    def __post_init__(self) -> None:
        if (self.dinov2.grid, self.dinov2.image_size) != (self.siglip.grid, self.siglip.image_size):
            raise ValueError(
                f"Both towers look at the same patches of one image, but DINOv2 has {self.dinov2.grid} x "
                f"{self.dinov2.grid} of {self.dinov2.image_size} px and SigLIP {self.siglip.grid} x {self.siglip.grid} "
                f"of {self.siglip.image_size} px."
            )
        if min(self.dinov2.layers, self.siglip.layers) < 2:
            raise ValueError("Patches come out of a tower's second-to-last block, so each needs at least 2 layers.")
        if self.llm.vocab_size is None:
            raise ValueError("The language model needs an embedding table; set its vocab_size.")

    @property
    def vision_width(self) -> int:
        return self.dinov2.width + self.siglip.width


_NANO_LLM = replace(
    LLAMA2_7B, width=128, mlp_width=256, layers=4, heads=4, kv_heads=4, head_dim=32, vocab_size=1024, convolution=4
)
_NANO_SIGLIP = ViTConfig(image_size=96, patch_size=12, width=48, layers=4, heads=2, mlp_width=96)
_NANO_ACTION_MODEL = ActionModelConfig(width=96, depth=3, heads=4, token_size=128, action_dim=8, horizon=8)
_NANO_DINOV2 = ViTConfig(
    image_size=96, patch_size=12, width=80, layers=4, heads=2, mlp_width=160, class_token=True, registers=4,
    layer_scale=1.0,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CogACTConfig:
    """Defaults are the nano size, which is trained from nothing; `SIZES["base"]` is the published model with head B.

    dinov2          its `layer_scale` is published as 1e-5 (from nothing 1 does better); both towers see the same image
    llm             its `convolution` mixes tokens in front of each attention; 0: none (published). One trained from
                    nothing needs it to put a name together
    action_model    its `token_size` follows the language model's width
    num_views       cameras when all are present (only `cost` reads it); published is one
    mask_padded     the loss averages over steps within the episode only (published: over all steps)
    guidance        scale of classifier-free guidance; up to 1 it is off
    denoise_steps   of DDIM, so that a whole stride of `diffusion_steps` gives exactly as many
    """

    dinov2: ViTConfig = _NANO_DINOV2
    siglip: ViTConfig = _NANO_SIGLIP
    llm: DecoderConfig = _NANO_LLM
    action_model: ActionModelConfig = _NANO_ACTION_MODEL
    num_views: int = 2
    mask_padded: bool = True
    guidance: float = 1.5
    denoise_steps: int = 10

    def __post_init__(self) -> None:
        _ = self.vlm  # refuses parts that do not fit each other
        spaced_times(self.action_model.diffusion_steps, self.denoise_steps)
        # The cognition feature is a state of the language model, so its width is no choice of the head's.
        object.__setattr__(self, "action_model", replace(self.action_model, token_size=self.llm.width))

    @property
    def vlm(self) -> VLMConfig:
        return VLMConfig(dinov2=self.dinov2, siglip=self.siglip, llm=self.llm)

    @property
    def image_size(self) -> int:
        return self.dinov2.image_size

    @property
    def vocab_size(self) -> int:
        return self.llm.vocab_size or 0

    @property
    def horizon(self) -> int:
        return self.action_model.horizon

    @property
    def action_dim(self) -> int:
        return self.action_model.action_dim


SIZES = {
    "nano": CogACTConfig(),
    "base": CogACTConfig(**vars(VLMConfig()), action_model=ACTION_MODEL_SIZES["B"], num_views=1, mask_padded=False),
}

_OF_ACTIONS = ("action_dim", "horizon", "unconditional_dropout", "diffusion_steps", "repeated_diffusion_steps")
_FIRST_FORMAT: dict[str, tuple[str, ...]] = {
    **{name: (f"dinov2.{name}", f"siglip.{name}") for name in ("image_size", "patch_size")},
    **{
        f"{tower}_{name}": (f"{tower}.{name}",)
        for tower in ("dinov2", "siglip")
        for name in ("width", "layers", "heads", "mlp_width", "layer_scale")
    },
    "registers": ("dinov2.registers",),
    "token_convolution": ("llm.convolution",),
    **{n: (f"llm.{n}",) for n in ("vocab_size", "width", "mlp_width", "layers", "heads", "kv_heads", "head_dim")},
    **{f"action_model_{name}": (f"action_model.{name}",) for name in ("width", "depth", "heads")},
    **{name: (f"action_model.{name}",) for name in _OF_ACTIONS},
}


def first_format_names(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a checkpoint of the first format under their names of today."""
    return {new: value for name, value in fields.items() for new in _FIRST_FORMAT.get(name, (name,))}


def first_format(fields: Mapping[str, Any]) -> CogACTConfig:
    """The configuration of a checkpoint of the first format, whose parts were not nested."""
    return update(SIZES["nano"], first_format_names(fields))

"""Dimensions of CogACT's parts, whose defaults are those of the published models, and of the whole, by size."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from visuomotor.backbones.decoder import Reading
from visuomotor.codec import update
from visuomotor.heads.diffusion_transformer import ActionModelConfig, DiffusionTransformerConfig
from visuomotor.models.vla import Routing
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.vit import DINOV2_LARGE, SIGLIP_SO400M, ViTConfig
from visuomotor.spelling import require_choices

__all__ = [
    "ACTION_MODEL_SIZES",
    "LLAMA2_7B",
    "SIZES",
    "CogACTConfig",
    "VLMConfig",
    "first_format",
    "first_format_names",
]

LLAMA2_7B = DecoderConfig(
    width=4096, mlp_width=11008, layers=32, heads=32, kv_heads=32, head_dim=128, vocab_size=32064, rope_theta=1e4,
    norm_eps=1e-5, qk_norm=False,
)  # fmt: skip


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
    text_output     layer over the vocabulary, with which the language model also learns to answer: "tied" to its
                    embedding, of its "own", or "none" (published)
    gradient_decoupling   the action loss does not reach the language model and its towers, which text alone trains
    decoupled_sources     indices into the mixture of which that is true; None: of all
    """

    dinov2: ViTConfig = _NANO_DINOV2
    siglip: ViTConfig = _NANO_SIGLIP
    llm: DecoderConfig = _NANO_LLM
    action_model: ActionModelConfig = _NANO_ACTION_MODEL
    num_views: int = 2
    mask_padded: bool = True
    guidance: float = 1.5
    denoise_steps: int = 10
    text_output: Literal["none", "tied", "own"] = "none"
    text_weight: float = 1.0
    gradient_decoupling: bool = False
    decoupled_sources: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _ = self.vlm, self.head, self.gradient_routing  # refuse parts that do not fit each other
        require_choices(self)
        if self.gradient_decoupling and self.text_output == "none":
            raise ValueError(
                "gradient_decoupling is on, but text_output is 'none', so nothing would train the language model; "
                "switch gradient_decoupling off, or set text_output to 'tied' or 'own'."
            )
        # The cognition feature is a state of the language model, so its width is no choice of the head's.
        object.__setattr__(self, "action_model", replace(self.action_model, token_size=self.llm.width))

    @property
    def vlm(self) -> VLMConfig:
        return VLMConfig(dinov2=self.dinov2, siglip=self.siglip, llm=self.llm)

    @property
    def reading(self) -> Reading:
        """How the language model reads views and text, and what it predicts."""
        return Reading(attention="causal", images_after=1, split=False, action_tokens=False, output=self.text_output)

    @property
    def head(self) -> DiffusionTransformerConfig:
        """The action head."""
        shared = {name: getattr(self, name) for name in ("action_model", "mask_padded", "guidance", "denoise_steps")}
        return DiffusionTransformerConfig(**shared)

    @property
    def gradient_routing(self) -> Routing:
        """What passes from the head back into the language model, and how much texts count."""
        weights = {"text": self.text_weight}
        return Routing(decoupled=self.gradient_decoupling, sources=self.decoupled_sources, weights=weights)

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

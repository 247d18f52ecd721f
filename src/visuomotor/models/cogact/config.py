"""Dimensions of CogACT's parts, whose defaults are those of the published models, and of the whole, by size."""

from dataclasses import dataclass, replace
from typing import Any

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
    "config_fields",
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


@dataclass(frozen=True, kw_only=True)
class CogACTConfig:
    """Defaults are the nano size, which is trained from nothing; `SIZES["base"]` is the published model with head B.

    num_views                  cameras when all are present (only `cost` reads it); published is one
    dinov2_layer_scale         initial gain of DINOv2's branches (published 1e-5; from nothing 1 does better)
    token_convolution          tokens that a causal convolution mixes in front of each attention of the language model;
                               0: none (published). One trained from nothing needs it to put a name together
    repeated_diffusion_steps   noise draws for each sample: documented is 8, published weights were trained with 4
    mask_padded                the loss averages over steps within the episode only (published: over all steps)
    guidance                   scale of classifier-free guidance; up to 1 it is off
    denoise_steps              of DDIM, so that a whole stride of `diffusion_steps` gives exactly as many
    """

    image_size: int = 96
    patch_size: int = 12
    num_views: int = 2
    dinov2_width: int = 80
    dinov2_layers: int = 4
    dinov2_heads: int = 2
    dinov2_mlp_width: int = 160
    dinov2_layer_scale: float | None = 1.0
    registers: int = 4
    siglip_width: int = 48
    siglip_layers: int = 4
    siglip_heads: int = 2
    siglip_mlp_width: int = 96

    vocab_size: int = 1024
    width: int = 128
    mlp_width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    head_dim: int = 32
    token_convolution: int = 4

    action_model_width: int = 96
    action_model_depth: int = 3
    action_model_heads: int = 4
    action_dim: int = 8
    horizon: int = 8
    unconditional_dropout: float = 0.1
    diffusion_steps: int = 100
    repeated_diffusion_steps: int = 8
    mask_padded: bool = True

    guidance: float = 1.5
    denoise_steps: int = 10

    def __post_init__(self) -> None:
        # The parts refuse what does not fit when the model is built, so that fields can be overridden one by one.
        spaced_times(self.diffusion_steps, self.denoise_steps)

    @property
    def prompt(self) -> str:
        """The text layout that the model reads: its last token is the cognition token."""
        return "cogact"

    @property
    def vlm(self) -> VLMConfig:
        llm = replace(
            LLAMA2_7B,
            width=self.width,
            mlp_width=self.mlp_width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocab_size=self.vocab_size,
            convolution=self.token_convolution,
        )
        dinov2 = ViTConfig(
            width=self.dinov2_width,
            layers=self.dinov2_layers,
            heads=self.dinov2_heads,
            mlp_width=self.dinov2_mlp_width,
            layer_scale=self.dinov2_layer_scale,
            class_token=True,
            registers=self.registers,
            image_size=self.image_size,
            patch_size=self.patch_size,
        )
        siglip = ViTConfig(
            width=self.siglip_width,
            layers=self.siglip_layers,
            heads=self.siglip_heads,
            mlp_width=self.siglip_mlp_width,
            image_size=self.image_size,
            patch_size=self.patch_size,
        )
        return VLMConfig(dinov2=dinov2, siglip=siglip, llm=llm)

    @property
    def action_model(self) -> ActionModelConfig:
        return ActionModelConfig(
            width=self.action_model_width,
            depth=self.action_model_depth,
            heads=self.action_model_heads,
            token_size=self.width,
            action_dim=self.action_dim,
            horizon=self.horizon,
            unconditional_dropout=self.unconditional_dropout,
            diffusion_steps=self.diffusion_steps,
            repeated_diffusion_steps=self.repeated_diffusion_steps,
        )


def config_fields(vlm: VLMConfig, action_model: ActionModelConfig) -> dict[str, Any]:
    """The fields of a CogACTConfig that has these parts."""
    dinov2, siglip, llm = vlm.dinov2, vlm.siglip, vlm.llm
    towers = {
        f"{name}_{field}": getattr(tower, field)
        for name, tower in (("dinov2", dinov2), ("siglip", siglip))
        for field in ("width", "layers", "heads", "mlp_width")
    }
    decoder = {
        n: getattr(llm, n) for n in ("vocab_size", "width", "mlp_width", "layers", "heads", "kv_heads", "head_dim")
    }
    head = {f"action_model_{name}": getattr(action_model, name) for name in ("width", "depth", "heads")}
    shared = ("action_dim", "horizon", "unconditional_dropout", "diffusion_steps", "repeated_diffusion_steps")
    return {
        "image_size": dinov2.image_size,
        "patch_size": dinov2.patch_size,
        "dinov2_layer_scale": dinov2.layer_scale,
        "registers": dinov2.registers,
        "token_convolution": llm.convolution,
        **towers,
        **decoder,
        **head,
        **{name: getattr(action_model, name) for name in shared},
    }


SIZES: dict[str, dict[str, Any]] = {
    "nano": {},
    "base": {**config_fields(VLMConfig(), ACTION_MODEL_SIZES["B"]), "num_views": 1, "mask_padded": False},
}

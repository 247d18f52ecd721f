"""Dimensions of CogACT's parts. The defaults are those of the published models."""

from dataclasses import dataclass

from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.vit import DINOV2_LARGE, SIGLIP_SO400M, ViTConfig

__all__ = ["LLAMA2_7B", "SIZES", "ActionModelConfig", "VLMConfig"]

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


SIZES = {
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
        if self.llm.vocab_size is None:
            raise ValueError("The language model needs an embedding table; set its vocab_size.")

    @property
    def vision_width(self) -> int:
        return self.dinov2.width + self.siglip.width

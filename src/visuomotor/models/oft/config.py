"""Presets of OpenVLA-OFT: a Prismatic that sees in both directions, and an L1 regression head."""

from dataclasses import dataclass, replace

from visuomotor.backbones.decoder import Reading
from visuomotor.heads.regression import L1RegressionConfig
from visuomotor.models.cogact.config import LLAMA2_7B, VLMConfig
from visuomotor.models.cogact.config import SIZES as COGACT
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.vit import DINOV2_LARGE, SIGLIP_SO400M, ViTConfig

__all__ = ["LLAMA2_HF", "SIZES", "OFTConfig"]

# OpenVLA in transformers' form takes LlamaConfig's default, not LLaMA-2's own 1e-5.
LLAMA2_HF = replace(LLAMA2_7B, norm_eps=1e-6)
_NANO_LLM = replace(COGACT["nano"].llm, norm_eps=LLAMA2_HF.norm_eps)


@dataclass(frozen=True, kw_only=True)
class OFTConfig:
    """Defaults are the nano size, which is trained from nothing; "base" is the published model for LIBERO.

    dinov2, siglip, llm   as in CogACT, but for the norms' epsilon; `film` of the towers is set by `film` here
    num_views             cameras when all are present
    head_width            width inside the head's MLP, head_blocks: residual blocks in it
    state                 the robot's state is a token behind the views
    film                  the text modulates both towers (OpenVLA-OFT+); film_padding: its padding, too, as published
                          code does in training
    mask_padded           the loss averages over valid entries only (published: over everything)
    """

    dinov2: ViTConfig = COGACT["nano"].dinov2
    siglip: ViTConfig = COGACT["nano"].siglip
    llm: DecoderConfig = _NANO_LLM
    num_views: int = 2
    action_dim: int = 8
    state_dim: int = 8
    horizon: int = 8
    head_width: int = 128
    head_blocks: int = 2
    state: bool = True
    film: bool = False
    film_padding: bool = False
    mask_padded: bool = True

    def __post_init__(self) -> None:
        for name in ("dinov2", "siglip"):
            object.__setattr__(self, name, replace(getattr(self, name), film=self.llm.width if self.film else 0))
        VLMConfig(dinov2=self.dinov2, siglip=self.siglip, llm=self.llm)  # refuses parts that do not fit each other
        _ = self.head

    @property
    def prompt(self) -> str:
        """The text layout that the model reads."""
        return "openvla_oft"

    @property
    def reading(self) -> Reading:
        """Every token sees all others; no text is predicted."""
        return Reading(attention="full", images_after=1, split=False, output="none", film_padding=self.film_padding)

    @property
    def head(self) -> L1RegressionConfig:
        """The action head."""
        return L1RegressionConfig(
            context_width=self.llm.width,
            hidden=self.head_width,
            horizon=self.horizon,
            action_dim=self.action_dim,
            state_dim=self.state_dim if self.state else 0,
            blocks=self.head_blocks,
            mask_padded=self.mask_padded,
        )

    @property
    def image_size(self) -> int:
        return self.dinov2.image_size

    @property
    def vocab_size(self) -> int:
        return self.llm.vocab_size or 0


_BASE = OFTConfig(
    dinov2=DINOV2_LARGE,
    siglip=SIGLIP_SO400M,
    llm=LLAMA2_HF,
    action_dim=7,
    head_width=LLAMA2_HF.width,
    mask_padded=False,
)
SIZES = {
    "nano": OFTConfig(),
    "base": _BASE,
    "base-aloha": replace(_BASE, num_views=3, action_dim=14, state_dim=14, horizon=25, film=True),
    "base-bridge": replace(_BASE, num_views=1, state_dim=7, horizon=5),
}

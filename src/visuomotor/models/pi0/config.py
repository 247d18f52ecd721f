"""Presets of pi0 and pi0.5: PaliGemma, and a flow expert that reads its keys and values."""

from dataclasses import dataclass, replace
from typing import Literal

from visuomotor.backbones.decoder import Reading
from visuomotor.backbones.writing import WordIds
from visuomotor.heads.flow_expert import FlowExpertConfig
from visuomotor.models.vla import Routing
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.vit import SIGLIP_SO400M, ViTConfig

__all__ = ["SIZES", "ExpertConfig", "Pi0Config"]

GEMMA_2B = DecoderConfig(
    width=2048, mlp_width=16384, layers=18, heads=8, kv_heads=1, head_dim=256, vocab_size=257152, rope_theta=1e4,
    qk_norm=False, norm="offset", activation="gelu", scale_embeddings=True,
)  # fmt: skip
_NANO_GEMMA = replace(
    GEMMA_2B, width=128, mlp_width=256, layers=4, heads=4, kv_heads=1, head_dim=32, vocab_size=1024, convolution=4
)


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Widths of the action expert; layers, heads and head width are the language model's."""

    width: int
    mlp_width: int


_NANO_VISION = ViTConfig(image_size=96, patch_size=12, width=80, layers=3, heads=2, mlp_width=160, gelu="tanh")
_NANO_EXPERT = ExpertConfig(width=96, mlp_width=256)


@dataclass(frozen=True, kw_only=True)
class Pi0Config:
    """Defaults are the nano size, which is trained from nothing. `SIZES["base"]` is pi0, "base-pi05" is pi0.5.

    vision, llm, expert   PaliGemma's tower and language model, and the expert's widths. The language model's
                          `convolution` mixes tokens in front of each attention (0: published); trained from nothing it
                          needs one to put a name together
    time                  flow time is concatenated to the noisy actions (pi0), or modulates the expert's norms (pi0.5)
    state                 proprioception enters as a "token" of the expert's block (pi0), or in the "text" (pi0.5)
    gradient_decoupling   the flow loss does not reach the language model (knowledge insulation); decoupled_sources:
                          indices into the mixture of which that is true, None: of all
    text_weight           of the cross-entropy of supervised text, action_tokens_weight: of discrete action tokens
    mask_padded           the flow loss averages over valid entries only (published: over all entries)

    The others are those of heads.flow_expert.FlowExpertConfig and backbones.writing.WordIds.
    """

    vision: ViTConfig = _NANO_VISION
    llm: DecoderConfig = _NANO_GEMMA
    expert: ExpertConfig = _NANO_EXPERT
    num_views: int = 2

    action_dim: int = 8
    state_dim: int = 8
    horizon: int = 8
    time: Literal["concatenated", "adaptive"] = "concatenated"
    state: Literal["token", "text"] = "token"

    gradient_decoupling: bool = False
    decoupled_sources: tuple[int, ...] | None = None
    noise_draws: int = 8
    prefix_delay: int = 0
    text_weight: float = 1.0
    action_tokens_weight: float = 1.0
    flow_weight: float = 1.0
    mask_padded: bool = True
    denoise_steps: int = 10
    newline_id: int = 2
    pad_id: int = 0
    action_start_id: int | None = None
    action_token_count: int = 256

    def __post_init__(self) -> None:
        if self.llm.vocab_size is None:
            raise ValueError("The language model needs an embedding table; set llm.vocab_size.")
        _ = self.head, self.routing  # refuse what cannot be built

    @property
    def image_size(self) -> int:
        return self.vision.image_size

    @property
    def vocab_size(self) -> int:
        return self.llm.vocab_size or 0

    @property
    def prompt(self) -> str:
        """The text layout that the model reads."""
        return "pi0" if self.state == "token" else "pi05"

    @property
    def reading(self) -> Reading:
        """Views and prompt see each other in both directions; what is answered is causal."""
        actions = None if self.action_start_id is None else (self.action_start_id, self.action_token_count)
        words = WordIds(newline=self.newline_id, pad=self.pad_id, actions=actions)
        return Reading(attention="prefix", words=words)

    @property
    def head(self) -> FlowExpertConfig:
        """The action expert: the language model's tower without its words, at widths of its own."""
        norm = "adaptive" if self.time == "adaptive" else "offset"
        tower = replace(self.llm, **vars(self.expert), vocab_size=None, convolution=0, norm=norm)
        names = (
            "action_dim", "state_dim", "horizon", "noise_draws", "prefix_delay", "mask_padded", "denoise_steps",
            "flow_weight",
        )  # fmt: skip
        return FlowExpertConfig(
            decoder=tower, context_width=self.llm.width, state_token="block" if self.state == "token" else "none",
            wide_time=True, cast_tokens=True, **{name: getattr(self, name) for name in names},
        )  # fmt: skip

    @property
    def routing(self) -> Routing:
        """What passes from the expert back into the language model, and how much its texts count."""
        weights = {"text": self.text_weight, "action_tokens": self.action_tokens_weight}
        return Routing(decoupled=self.gradient_decoupling, sources=self.decoupled_sources, weights=weights)


_BASE = Pi0Config(
    vision=replace(SIGLIP_SO400M, gelu="tanh"),
    llm=GEMMA_2B,
    expert=ExpertConfig(width=1024, mlp_width=4096),
    num_views=3,
    action_dim=32,
    state_dim=32,
    horizon=50,
    noise_draws=1,
    mask_padded=False,
    newline_id=108,
)
SIZES = {
    "nano": Pi0Config(),
    "nano-pi05": Pi0Config(time="adaptive", state="text"),
    "base": _BASE,
    "base-pi05": replace(_BASE, time="adaptive", state="text"),
}

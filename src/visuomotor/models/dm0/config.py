"""Every dimension and option of a DM0, and its named sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from visuomotor.backbones.decoder import Reading
from visuomotor.backbones.writing import WordIds
from visuomotor.codec import update
from visuomotor.heads.flow_expert import FlowExpertConfig
from visuomotor.models.vla import Routing
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.vision import VisionConfig
from visuomotor.text.action_tokens import BINS

__all__ = ["SIZES", "DM0Config", "ExpertConfig", "first_format"]


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Widths of the action expert. All else is the language model's: the two attend to each other layer by layer."""

    width: int
    mlp_width: int


_NANO_VISION = VisionConfig(
    image_size=96, patch_size=12, width=80, layers=3, heads=2, mlp_width=160, layer_scale=1.0, downsamples=1
)
_NANO_LLM = DecoderConfig(
    width=128, mlp_width=256, layers=4, heads=4, kv_heads=2, head_dim=32, vocab_size=1024, convolution=4
)
_NANO_EXPERT = ExpertConfig(width=96, mlp_width=256)


@dataclass(frozen=True, kw_only=True)
class DM0Config:
    """Defaults are the nano size, which is trained from nothing.

    `SIZES["small"]` starts from the public Qwen3-0.6B and PE-Core-S16-384, `SIZES["base"]` is the published model and
    starts from a published DM0, or like its authors from the public Qwen3-1.7B and PE-Lang-L14-448.

    vision                its `layer_scale` is published as 0.1 (towers trained from nothing do better at 1), its
                          number of `downsamples` as 2
    llm                   its `convolution` mixes tokens in front of each attention; 0: none (published). A language
                          model trained from nothing needs it to put a name together
    num_views             cameras when all are present (only `cost` reads it)
    state_token           where proprioception enters, through one linear token: nowhere (published), between images
                          and text of the prefix, or first in the action expert's block
    progress_token        DM0-Prog: one more token in front of the chunk, which says how far the task is; from it the
                          expert predicts how far it will be at the chunk's end. progress_noise: standard deviation of
                          what is added in training to the progress it is told, so that it looks instead of counting
    gradient_decoupling   the flow loss does not reach the VLM: stop-gradient on the keys and values it lends
    decoupled_sources     indices into the mixture whose flow loss is decoupled; None: all
    noise_draws           K flow samples per prefix and training step
    prefix_delay          training-time real-time chunking: up to so many actions at a chunk's beginning, a new number
                          for each draw, are given without noise and not counted in the flow loss; 0: none (published)
    mask_padded           the flow loss averages over valid entries only (published: over all entries)
    image_pad             colour of the bars that make an image square
    newline_id, pad_id    tokens that end a generated level, and that fill behind it
    action_start_id       first of the discrete action tokens, which the chunk never sees, not even where the model
                          writes one into its own text; None: the vocabulary has none
    action_token_count    how many of them follow each other
    """

    vision: VisionConfig = _NANO_VISION
    llm: DecoderConfig = _NANO_LLM
    expert: ExpertConfig = _NANO_EXPERT
    num_views: int = 2
    image_pad: Literal["grey", "black"] = "grey"
    tie_embeddings: bool = True

    action_dim: int = 8
    state_dim: int = 8
    horizon: int = 8
    state_token: Literal["none", "prefix", "expert"] = "none"
    progress_token: bool = False
    progress_noise: float = 0.05

    gradient_decoupling: bool = True
    decoupled_sources: tuple[int, ...] | None = None
    noise_draws: int = 4
    prefix_delay: int = 0
    text_weight: float = 1.0
    action_tokens_weight: float = 1.0
    flow_weight: float = 1.0
    progress_weight: float = 1.0
    mask_padded: bool = True

    denoise_steps: int = 10
    newline_id: int = 2
    pad_id: int = 0
    action_start_id: int | None = 2
    action_token_count: int = BINS

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
    def reading(self) -> Reading:
        """How the language model reads views and text, and what it predicts."""
        actions = None if self.action_start_id is None else (self.action_start_id, self.action_token_count)
        words = WordIds(newline=self.newline_id, pad=self.pad_id, actions=actions)
        return Reading(output="tied" if self.tie_embeddings else "own", words=words)

    @property
    def head(self) -> FlowExpertConfig:
        """The action expert: the language model's tower without its words, at widths of its own."""
        shared = {name: getattr(self, name) for name in _OF_HEAD}
        tower = replace(self.llm, **vars(self.expert), vocab_size=None, convolution=0)
        return FlowExpertConfig(decoder=tower, context_width=self.llm.width, **shared)

    @property
    def routing(self) -> Routing:
        """What passes from the expert back into the language model, and how much its texts count."""
        weights = {"text": self.text_weight, "action_tokens": self.action_tokens_weight}
        return Routing(decoupled=self.gradient_decoupling, sources=self.decoupled_sources, weights=weights)


_OF_HEAD = (
    "action_dim", "state_dim", "horizon", "state_token", "progress_token", "progress_noise", "noise_draws",
    "prefix_delay", "mask_padded", "denoise_steps", "flow_weight", "progress_weight",
)  # fmt: skip

# From public weights: Qwen3-0.6B and PE-Core-S16-384 (`backbones.py`), with the vocabulary of the published model. The
# expert is as narrow beside the language model as in `base`: half its width, a quarter of its MLP. Chunks are as long,
# too: the horizon is tied to no weight, so a recipe may choose it by the robot's rate.
_SMALL = DM0Config(
    vision=VisionConfig(
        image_size=384, patch_size=16, width=384, layers=12, heads=6, mlp_width=1536, layer_scale=1.0, downsamples=2
    ),
    llm=DecoderConfig(width=1024, mlp_width=3072, layers=28, heads=16, kv_heads=8, head_dim=128, vocab_size=152701),
    expert=ExpertConfig(width=512, mlp_width=768),
    num_views=3,
    action_dim=32,
    state_dim=32,
    horizon=50,
    newline_id=198,
    pad_id=151643,
    action_start_id=151698,
)

# The published model: Perception Encoder L/14 at 728 px, Qwen3-1.7B, chunks of 50. The embedding doubles as output
# layer, because the published files hold no lm_head.
_BASE = replace(
    _SMALL,
    vision=VisionConfig(image_size=728, patch_size=14, width=1024, layers=23, heads=16, mlp_width=4096),
    llm=replace(_SMALL.llm, width=2048, mlp_width=6144),
    expert=ExpertConfig(width=1024, mlp_width=1536),
    gradient_decoupling=False,
    noise_draws=1,
    mask_padded=False,
)

SIZES = {"nano": DM0Config(), "small": _SMALL, "base": _BASE}

_FIRST_FORMAT = {
    "image_size": "vision.image_size",
    "patch_size": "vision.patch_size",
    "vision_width": "vision.width",
    "vision_layers": "vision.layers",
    "vision_heads": "vision.heads",
    "vision_mlp_width": "vision.mlp_width",
    "vision_layer_scale": "vision.layer_scale",
    "vision_downsamples": "vision.downsamples",
    "vocab_size": "llm.vocab_size",
    "width": "llm.width",
    "mlp_width": "llm.mlp_width",
    "layers": "llm.layers",
    "heads": "llm.heads",
    "kv_heads": "llm.kv_heads",
    "head_dim": "llm.head_dim",
    "token_convolution": "llm.convolution",
    "expert_width": "expert.width",
    "expert_mlp_width": "expert.mlp_width",
}


def first_format(fields: Mapping[str, Any]) -> DM0Config:
    """The configuration of a checkpoint of the first format, whose parts were not nested."""
    return update(SIZES["nano"], {_FIRST_FORMAT.get(name, name): value for name, value in fields.items()})

"""Every dimension and option of a DM0, and its named sizes."""

from dataclasses import dataclass, replace
from typing import Literal

from visuomotor.data.action_tokens import BINS
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.vision import VisionConfig

__all__ = ["SIZES", "DM0Config"]


@dataclass(frozen=True, kw_only=True)
class DM0Config:
    """Defaults are the nano size, which is trained from nothing.

    `SIZES["small"]` starts from the public Qwen3-0.6B and PE-Core-S16-384, `SIZES["base"]` is the published model and
    starts from a published DM0, or like its authors from the public Qwen3-1.7B and PE-Lang-L14-448.

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
    vision_downsamples    stride-2 convolutions behind the tower (published: 2)
    image_pad             colour of the bars that make an image square
    vision_layer_scale    initial LayerScale gamma (published 0.1; towers trained from nothing do better at 1)
    token_convolution     tokens that a causal convolution mixes in front of each attention of the VLM; 0: none
                          (published). A language model trained from nothing needs it to put a name together
    newline_id, pad_id    tokens that end a generated level, and that fill behind it
    action_start_id       first of the discrete action tokens, which the chunk never sees, not even where the model
                          writes one into its own text; None: the vocabulary has none
    action_token_count    how many of them follow each other
    """

    image_size: int = 96
    patch_size: int = 12
    num_views: int = 2
    vision_width: int = 80
    vision_layers: int = 3
    vision_heads: int = 2
    vision_mlp_width: int = 160
    vision_layer_scale: float = 1.0
    vision_downsamples: int = 1
    image_pad: Literal["grey", "black"] = "grey"

    vocab_size: int = 1024
    width: int = 128
    mlp_width: int = 256
    expert_width: int = 96
    expert_mlp_width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    token_convolution: int = 4
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
        if self.decoupled_sources is not None and not self.gradient_decoupling:
            raise ValueError("decoupled_sources names sources, but gradient_decoupling is off; switch it on.")
        for name in ("noise_draws", "denoise_steps", "horizon", "action_dim", "layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not 0 <= self.prefix_delay < self.horizon:
            raise ValueError(f"prefix_delay is {self.prefix_delay}, but must be 0 to horizon - 1 ({self.horizon - 1}).")
        if self.prefix_delay and self.progress_token:
            raise ValueError("prefix_delay gives each action its own flow time; a progress token needs one for all.")
        if self.state_token != "none" and self.state_dim < 1:
            raise ValueError(f"state_token={self.state_token!r} needs state_dim of at least 1, not {self.state_dim}.")
        if self.expert_width % 2:
            raise ValueError(f"expert_width {self.expert_width} must be even: half sines, half cosines of flow time.")

    @property
    def vision(self) -> VisionConfig:
        return VisionConfig(
            image_size=self.image_size,
            patch_size=self.patch_size,
            width=self.vision_width,
            layers=self.vision_layers,
            heads=self.vision_heads,
            mlp_width=self.vision_mlp_width,
            layer_scale=self.vision_layer_scale,
            downsamples=self.vision_downsamples,
        )

    @property
    def llm(self) -> DecoderConfig:
        return replace(self._tower(self.width, self.mlp_width, self.vocab_size), convolution=self.token_convolution)

    @property
    def expert(self) -> DecoderConfig:
        return self._tower(self.expert_width, self.expert_mlp_width, None)

    @property
    def chunk_tokens(self) -> int:
        """Tokens of one noise draw in the action expert's block."""
        return self.horizon + (self.state_token == "expert") + self.progress_token

    def _tower(self, width: int, mlp_width: int, vocab_size: int | None) -> DecoderConfig:
        return DecoderConfig(
            width=width,
            mlp_width=mlp_width,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            vocab_size=vocab_size,
        )


# From public weights: Qwen3-0.6B and PE-Core-S16-384 (`backbones.py`), with the vocabulary of the published model. The
# expert is as narrow beside the language model as in `base`: half its width, a quarter of its MLP. Chunks are as long,
# too: the horizon is tied to no weight, so a recipe may choose it by the robot's rate.
_SMALL = {
    "image_size": 384,
    "patch_size": 16,
    "num_views": 3,
    "vision_width": 384,
    "vision_layers": 12,
    "vision_heads": 6,
    "vision_mlp_width": 1536,
    "vision_downsamples": 2,
    "vocab_size": 152701,
    "width": 1024,
    "mlp_width": 3072,
    "expert_width": 512,
    "expert_mlp_width": 768,
    "layers": 28,
    "heads": 16,
    "kv_heads": 8,
    "head_dim": 128,
    "token_convolution": 0,
    "action_dim": 32,
    "state_dim": 32,
    "horizon": 50,
    "newline_id": 198,
    "pad_id": 151643,
    "action_start_id": 151698,
}

# The published model: Perception Encoder L/14 at 728 px, Qwen3-1.7B, chunks of 50. The embedding doubles as output
# layer, because the published files hold no lm_head.
_BASE = {
    "image_size": 728,
    "patch_size": 14,
    "num_views": 3,
    "vision_width": 1024,
    "vision_layers": 23,
    "vision_heads": 16,
    "vision_mlp_width": 4096,
    "vision_layer_scale": 0.1,
    "vision_downsamples": 2,
    "vocab_size": 152701,
    "width": 2048,
    "mlp_width": 6144,
    "expert_width": 1024,
    "expert_mlp_width": 1536,
    "layers": 28,
    "heads": 16,
    "kv_heads": 8,
    "head_dim": 128,
    "token_convolution": 0,
    "action_dim": 32,
    "state_dim": 32,
    "horizon": 50,
    "gradient_decoupling": False,
    "noise_draws": 1,
    "mask_padded": False,
    "newline_id": 198,
    "pad_id": 151643,
    "action_start_id": 151698,
}

SIZES: dict[str, dict] = {"nano": {}, "small": _SMALL, "base": _BASE}

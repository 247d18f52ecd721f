"""A model of one's own: CogACT's way of acting, a diffusion transformer behind one feature, written anew.

    visuomotor train diffuser.py:recipe --data demonstrations
    visuomotor eval runs/train --environment rooms.py:WORLD

The backbone is one of the library's; head, configuration and recipe are here, and nothing of them is known to it.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.backbones.decoder import DecoderBackbone, Reading
from visuomotor.backbones.towers import PerceptionVision
from visuomotor.contract import EvalPlan, Mixture, Run, Sampled, Source, Stage, Term
from visuomotor.heads.base import ActionHead, Draws, Targets, action_term, step_weights
from visuomotor.models import ModelSpec
from visuomotor.models.vla import VLA, Routing
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.diffusion import ddim, squared_cosine
from visuomotor.nn.dit import TimeEmbedding
from visuomotor.nn.guidance import Guidance
from visuomotor.nn.initialize import initialize
from visuomotor.nn.random import integers, normal
from visuomotor.nn.terms import nothing
from visuomotor.nn.vision import VisionConfig

HERE = Path(__file__).resolve()
TIMES, STEPS = 100, 10  # of the noise schedule, and how many of them sampling visits


@dataclass(frozen=True, kw_only=True)
class DiffuserConfig:
    """Dimensions of the model."""

    vision: VisionConfig = VisionConfig(  # noqa: RUF009
        image_size=32, patch_size=4, width=32, layers=2, heads=2, mlp_width=64, layer_scale=1.0, downsamples=1
    )
    llm: DecoderConfig = DecoderConfig(  # noqa: RUF009
        width=64, mlp_width=128, layers=2, heads=2, kv_heads=2, head_dim=32, vocab_size=300, convolution=4
    )
    width: int = 64
    depth: int = 2
    horizon: int = 4
    action_dim: int = 2
    state_dim: int = 2
    num_views: int = 1
    newline_id: int = 2
    pad_id: int = 0

    @property
    def image_size(self) -> int:
        return self.vision.image_size

    @property
    def vocab_size(self) -> int:
        return self.llm.vocab_size or 0


class Diffuser(ActionHead):
    """Predicts the noise in a chunk; a token in front of it holds time and feature."""

    request = ContextRequest(layers=(-1,), at="prompt")
    terms = ("diffusion",)

    def __init__(self, config: DiffuserConfig) -> None:
        super().__init__()
        self.schedule = squared_cosine(TIMES)
        self.into, self.out = nn.Linear(config.action_dim, config.width), nn.Linear(config.width, config.action_dim)
        self.time, self.feature = TimeEmbedding(config.width), nn.Linear(config.llm.width, config.width)
        self.places = nn.Parameter(0.1 * torch.randn(config.horizon + 1, config.width))
        layer = nn.TransformerEncoderLayer(config.width, 4, 4 * config.width, 0.0, "gelu", batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)

    def draw(
        self, targets: Targets, noise: Tensor | None, time: Tensor | None, generator: torch.Generator | None
    ) -> Draws:
        shape, device = targets.actions.shape, targets.actions.device
        if noise is None:
            noise = normal((shape[0], 8, *shape[1:]), generator, device)
        if time is None:
            time = integers(TIMES, tuple(noise.shape[:2]), generator, device)
        return Draws(noise=noise, time=time)

    def losses(self, context: Context, targets: Targets, draws: Draws) -> dict[str, Term]:
        noisy = self.schedule.noised(targets.actions[:, None], draws.noise, draws.time)
        errors = (self.denoise(context, noisy, draws.time).float() - draws.noise).square()
        return {"diffusion": action_term(errors, targets.steps, step_weights(targets))}

    def nothing(self, device: torch.device) -> dict[str, Term]:
        return {"diffusion": nothing(1.0, device)}

    def denoise(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        first = self.time(t.flatten()).unflatten(0, t.shape) + self.feature(context.states[-1])
        tokens = torch.cat([first[:, :, None], self.into(x)], dim=2).flatten(0, 1) + self.places
        return self.out(self.blocks(tokens)[:, 1:]).unflatten(0, x.shape[:2])

    def sample(
        self,
        context: Context,
        noise: Tensor,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        chunk_guidance: Guidance | None = None,
    ) -> Sampled:
        def predict(x: Tensor, t: Tensor) -> Tensor:
            x, t = x.unflatten(0, noise.shape[:2]), t.unflatten(0, noise.shape[:2])
            return self.denoise(context, x, t).flatten(0, 1)

        actions = ddim(predict, noise.flatten(0, 1), self.schedule, steps or STEPS, clamp=1.0)
        return Sampled(actions=actions.unflatten(0, noise.shape[:2]))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {"head": list(self.parameters())}


def build(config: DiffuserConfig) -> VLA:
    vision = PerceptionVision(config.vision, config.llm.width, "grey")
    backbone = DecoderBackbone(vision, config.llm, Reading(output="none"))
    initialize([(vision.tower, 2), (vision.projector, 2), (backbone.llm, 2)])
    return VLA(config, backbone, Diffuser(config), Routing())


SPEC = ModelSpec(name="diffuser", config=DiffuserConfig, presets={"nano": DiffuserConfig()}, build=build)


def recipe(data: str, steps: int = 400) -> Run:
    """The model on demonstrations of the rooms."""
    stage = Stage(name="train", steps=steps, mixture=Mixture(sources=(Source(name="rooms", path=data),)), batch_size=32)
    return Run(
        name="diffuser",
        model=f"{HERE}:SPEC",
        config=DiffuserConfig(),
        stages={"train": stage},
        evaluation=EvalPlan(environment=f"{HERE.parent}/rooms.py:WORLD", execute=4),
        processor={"levels": {}, "image_roles": ("scene",)},
    )

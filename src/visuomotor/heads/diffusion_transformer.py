"""CogACT's action head: a diffusion transformer that is told time and cognition feature by a token in front.

Parameter names of `ActionModel` are the published ones. Dimensions: B batch, R noise draws, N samples, T horizon,
A action width, C width of the cognition feature, W width of the transformer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.contract import Sampled, Term
from visuomotor.heads.base import ActionHead, Draws, Targets, action_term, step_weights
from visuomotor.nn.diffusion import Schedule, ddim, ddpm, spaced_times, squared_cosine
from visuomotor.nn.dit import Block, TimeEmbedding, per_sample
from visuomotor.nn.guidance import NOISE_GUIDANCE, Guidance, guide_noise
from visuomotor.nn.random import integers, normal, uniform
from visuomotor.nn.terms import nothing

__all__ = [
    "ActionModel", "ActionModelConfig", "ConditionEmbedder", "DiffusionTransformerConfig", "DiffusionTransformerHead",
    "Predictor", "sample_chunks",
]  # fmt: skip

Predictor = Callable[[Tensor, Tensor], Tensor]


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


class Embedder(nn.Module):
    """A linear under its published name."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.to(self.linear.weight.dtype))


class ConditionEmbedder(nn.Module):
    """A linear, and the learned vector that stands for no condition (`uncondition` [1, C])."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.uncondition = nn.Parameter(torch.empty(1, inputs))

    def forward(self, z: Float[Tensor, "B 1 C"], drop: Bool[Tensor, "B"] | None = None) -> Float[Tensor, "B 1 W"]:
        """Embeds `z`; in the rows that `drop` marks, the unconditional vector."""
        z = z.to(self.linear.weight.dtype)
        if drop is not None:
            z = torch.where(drop[:, None, None], self.uncondition, z)
        return self.linear(z)


class FinalLayer(nn.Module):
    """Layer norm without parameters, then a linear."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.layer_norm(x, x.shape[-1:], eps=1e-6))


class ActionModel(nn.Module):
    """Predicts the noise in a chunk of normalised actions.

    `history_embedder` is read by nothing; it is kept because published checkpoints have it.
    `z_embedder(z, drop)` alone knows what a condition is made of: a head that is told more than the cognition feature
    has a wider z (`token_size`) and another embedder.
    """

    def __init__(self, config: ActionModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.history_embedder = Embedder(config.action_dim, width)
        self.x_embedder = Embedder(config.action_dim, width)
        self.t_embedder = TimeEmbedding(width)
        self.z_embedder = ConditionEmbedder(config.token_size, width)
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(config.horizon + 1, width))
        self.blocks = nn.ModuleList(Block(width, config.heads, modulated=False) for _ in range(config.depth))
        self.final_layer = FinalLayer(width, config.action_dim)
        _initialize(self)

    @property
    def schedule(self) -> Schedule:
        """The noise schedule, with its table on the model's device."""
        return _schedule(self.config.diffusion_steps, self.positional_embedding.device)

    def forward(
        self,
        x: Float[Tensor, "B T A"],
        t: Int64[Tensor, "B"] | int,
        z: Float[Tensor, "B 1 C"],
        drop: Bool[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B T A"]:
        """The noise predicted in x at diffusion times t, given cognition features z; `drop` marks rows without z."""
        self._require_shapes(x, z)
        return self.denoise(x, per_sample(t, x), self.z_embedder(z, drop))

    def denoise(
        self, x: Float[Tensor, "B T A"], t: Int64[Tensor, "B"], condition: Float[Tensor, "B 1 W"]
    ) -> Float[Tensor, "B T A"]:
        """`forward` behind `z_embedder`, whose output is the same for all times."""
        told = self.t_embedder(t)[:, None] + condition
        states = torch.cat([told, self.x_embedder(x)], dim=1) + self.positional_embedding
        for block in self.blocks:
            states = block(states)
        return self.final_layer(states[:, 1:])

    def squared_errors(
        self,
        actions: Float[Tensor, "B T A"],
        z: Float[Tensor, "B 1 C"],
        *,
        noise: Float[Tensor, "B R T A"] | None = None,
        time: Int64[Tensor, "B R"] | None = None,
        drop: Bool[Tensor, "B R"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B R T A"]:
        """Squared errors of the predicted noise for R draws of each sample.

        noise, time, drop   replace the draws from `generator`: standard normal; uniform over all times; and, with the
                            configured probability, the unconditional vector instead of z, for each draw anew
        """
        draws = self.draw(actions, noise, time, drop, generator)
        return self.errors(actions, z, draws)

    def draw(
        self,
        actions: Float[Tensor, "B T A"],
        noise: Float[Tensor, "B R T A"] | None = None,
        time: Int64[Tensor, "B R"] | None = None,
        drop: Bool[Tensor, "B R"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Draws:
        """What is random in a training step; see `squared_errors`."""
        config, device = self.config, actions.device
        if noise is None:
            shape = (actions.shape[0], config.repeated_diffusion_steps, *actions.shape[1:])
            noise = normal(shape, generator, device, actions.dtype)
        draws = noise.shape[:2]
        if time is None:
            time = integers(config.diffusion_steps, draws, generator, device)
        if drop is None:
            drop = uniform(draws, generator, device) < config.unconditional_dropout
        return Draws(noise=noise, time=time, extra={"drop": drop})

    def errors(
        self, actions: Float[Tensor, "B T A"], z: Float[Tensor, "B 1 C"], draws: Draws
    ) -> Float[Tensor, "B R T A"]:
        """Squared errors of the predicted noise."""
        self._require_shapes(actions, z)
        noise, repeats, time = draws.noise, draws.noise.shape[1], draws.time.flatten()
        x = self.schedule.noised(actions.repeat_interleave(repeats, 0), noise.flatten(0, 1), time)
        found = self(x, time, z.repeat_interleave(repeats, 0), draws.extra["drop"].flatten())
        return (found.to(noise.dtype) - noise.flatten(0, 1)).square().unflatten(0, noise.shape[:2])

    def loss(
        self,
        actions: Float[Tensor, "B T A"],
        z: Float[Tensor, "B 1 C"],
        *,
        noise: Float[Tensor, "B R T A"] | None = None,
        time: Int64[Tensor, "B R"] | None = None,
        drop: Bool[Tensor, "B R"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Mean of `squared_errors` over everything, padded steps and dimensions included, as published."""
        return self.squared_errors(actions, z, noise=noise, time=time, drop=drop, generator=generator).mean()

    @torch.no_grad()
    def sample(
        self,
        z: Float[Tensor, "B 1 C"],
        noise: Float[Tensor, "B T A"],
        steps: int | None = 10,
        guidance: float = 1.5,
        *,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "B T A"]:
        """Normalised action chunks from `noise`; nothing is clamped.

        steps      of DDIM; None: ancestral sampling through all times with noise from `generator`
        guidance   scale s of classifier-free guidance, u + s (c - u) of the noise predicted without and with z; up to 1
                   it is off. Both predictions are one batch

        Raises:
            ValueError: shapes disagree with the model, or no even spacing has `steps` times.
        """
        self._require_shapes(noise, z)
        predict = self.predictor(z, guidance)
        if steps is None:
            return ddpm(predict, noise, self.schedule, generator=generator)
        return ddim(predict, noise, self.schedule, spaced_times(self.config.diffusion_steps, steps))

    def predictor(self, z: Float[Tensor, "B 1 C"], guidance: float = 1.0) -> Predictor:
        """(x [B, T, A], t [B]) -> the noise in x, guided as in `sample`; z is embedded once."""
        guided, size = guidance > 1, z.shape[0]
        without = torch.arange(2 * size, device=z.device) >= size  # the second half knows nothing
        condition = self.z_embedder(torch.cat([z, z]), without) if guided else self.z_embedder(z)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            if not guided:
                return self.denoise(x, t, condition).to(x.dtype)
            both = self.denoise(torch.cat([x, x]), torch.cat([t, t]), condition).to(x.dtype)
            given, unguided = both.chunk(2)
            return unguided + guidance * (given - unguided)

        return predict

    def _require_shapes(self, x: Tensor, z: Tensor) -> None:
        config = self.config
        expected = (x.shape[0], config.horizon, config.action_dim), (x.shape[0], 1, config.token_size)
        if (tuple(x.shape), tuple(z.shape)) != expected:
            raise ValueError(
                f"Actions {list(x.shape)} and cognition features {list(z.shape)} do not fit the action model; expected "
                f"[B, {config.horizon}, {config.action_dim}] and [B, 1, {config.token_size}]."
            )


@lru_cache(maxsize=8)
def _schedule(steps: int, device: torch.device) -> Schedule:
    return Schedule(squared_cosine(steps).alpha_bar.to(device))


@torch.no_grad()
def _initialize(model: ActionModel) -> None:
    """As published: the embedders normal, all other matrices uniform after Glorot, and an output of zero."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for part in (model.x_embedder, model.history_embedder, model.z_embedder, model.t_embedder):
        for name, parameter in part.named_parameters():
            if not name.endswith("bias"):  # matrices, and the unconditional vector
                nn.init.normal_(parameter, std=0.02)
    nn.init.zeros_(model.final_layer.linear.weight)


@dataclass(frozen=True, kw_only=True)
class DiffusionTransformerConfig:
    """An action model, how it is trained, and how it samples.

    mask_padded     the loss averages over steps within the episode only, else over all steps
    guidance        scale of classifier-free guidance; up to 1 it is off
    denoise_steps   of DDIM
    """

    action_model: ActionModelConfig
    mask_padded: bool = True
    guidance: float = 1.5
    denoise_steps: int = 10

    def __post_init__(self) -> None:
        spaced_times(self.action_model.diffusion_steps, self.denoise_steps)


class DiffusionTransformerHead(ActionHead):
    """An action model that is told the last state of the prompt, CogACT's cognition feature. Term "diffusion"."""

    request = ContextRequest(layers=(-1,), at="prompt")
    terms = ("diffusion",)
    chunk_guidance = NOISE_GUIDANCE
    classifier_free = True

    def __init__(self, config: DiffusionTransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.model = ActionModel(config.action_model)

    def draw(
        self, targets: Targets, noise: Tensor | None, time: Tensor | None, generator: torch.Generator | None
    ) -> Draws:
        """Noise, diffusion times, and which draws are unconditional."""
        return self.model.draw(targets.actions, noise, time, generator=generator)

    def losses(self, context: Context, targets: Targets, draws: Draws) -> dict[str, Term]:
        errors = self.model.errors(targets.actions, context.states[-1], draws)
        steps = targets.steps if self.config.mask_padded else torch.ones_like(targets.steps)
        return {"diffusion": action_term(errors, steps, step_weights(targets))}

    def nothing(self, device: torch.device) -> dict[str, Term]:
        return {"diffusion": nothing(1.0, device)}

    def denoise(
        self, context: Context, x: Float[Tensor, "B N T A"], t: Int64[Tensor, "B N"]
    ) -> Float[Tensor, "B N T A"]:
        """The noise predicted in x at diffusion times t, without guidance."""
        condition = self.model.z_embedder(context.states[-1]).repeat_interleave(x.shape[1], 0)
        return self.model.denoise(x.flatten(0, 1), t.flatten(), condition).unflatten(0, x.shape[:2])

    @torch.no_grad()
    def sample(
        self,
        context: Context,
        noise: Float[Tensor, "B N T A"],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        chunk_guidance: Guidance | None = None,
    ) -> Sampled:
        """DDIM steps from noise; the N samples of a row share its feature."""
        config, z = self.config, context.states[-1].repeat_interleave(noise.shape[1], 0)
        predict = self.model.predictor(z, config.guidance if guidance is None else guidance)
        steps = config.denoise_steps if steps is None else steps
        return Sampled(actions=sample_chunks(predict, noise, self.model.schedule, steps, chunk_guidance))

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """action_model."""
        return {"action_model": list(self.model.parameters())}

    def units(self) -> list[nn.Module]:
        return list(self.model.blocks)


def sample_chunks(
    predict: Predictor,
    noise: Float[Tensor, "B N T A"],
    schedule: Schedule,
    steps: int,
    chunk_guidance: Guidance | None = None,
) -> Float[Tensor, "B N T A"]:
    """`steps` DDIM steps from noise; `predict` takes all samples in one batch [B * N, T, A]."""
    if chunk_guidance is not None:
        predict = guide_noise(predict, schedule, chunk_guidance)
    return ddim(predict, noise.flatten(0, 1), schedule, spaced_times(schedule.steps, steps)).unflatten(
        0, noise.shape[:2]
    )

"""CogACT's action model: a diffusion transformer that is told time and cognition feature by a token in front.

Parameter names are the published ones. Dimensions: B batch, R noise draws, T horizon, A action width, C width of the
cognition feature, W width of the transformer.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.models.cogact.config import ActionModelConfig
from visuomotor.nn.diffusion import Schedule, ddim, ddpm, spaced_times, squared_cosine
from visuomotor.nn.dit import Block, TimeEmbedding, per_sample
from visuomotor.nn.random import integers, normal, uniform

__all__ = ["ActionModel"]


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
        self._require_shapes(actions, z)
        config, device = self.config, actions.device
        if noise is None:
            shape = (actions.shape[0], config.repeated_diffusion_steps, *actions.shape[1:])
            noise = normal(shape, generator, device, actions.dtype)
        draws = noise.shape[:2]
        if time is None:
            time = integers(config.diffusion_steps, draws, generator, device)
        if drop is None:
            drop = uniform(draws, generator, device) < config.unconditional_dropout
        flat = time.flatten()
        x = self.schedule.noised(actions.repeat_interleave(draws[1], 0), noise.flatten(0, 1), flat)
        found = self(x, flat, z.repeat_interleave(draws[1], 0), drop.flatten())
        return (found.to(noise.dtype) - noise.flatten(0, 1)).square().unflatten(0, draws)

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

    def predictor(self, z: Float[Tensor, "B 1 C"], guidance: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
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

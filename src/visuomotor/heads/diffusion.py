"""Diffusion heads behind one condition for the whole chunk: the loss of their predicted noise, and DDIM sampling.

`DiffusionHead` is the network, with the interface of published code; `ConditionedDiffusion` makes an action head of it.

Dimensions: B samples, K noise draws, N samples at inference, T horizon, A and S padded widths of chunk and state,
C condition tokens of width D.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.contract import Sampled, Term
from visuomotor.heads.base import ActionHead, Draws, Targets, action_term, step_weights
from visuomotor.heads.diffusion_config import HeadConfig
from visuomotor.nn.diffusion import Schedule, ddim, squared_cosine
from visuomotor.nn.guidance import NOISE_GUIDANCE, Guidance, guide_noise
from visuomotor.nn.random import integers, normal
from visuomotor.nn.terms import nothing

__all__ = ["ConditionedDiffusion", "DiffusionHead"]

CLAMP = 1.0  # actions are normalised to [-1, 1], and so is every estimate of them while sampling
Predictor = Callable[[Tensor, Tensor], Tensor]


class DiffusionHead(nn.Module, ABC):
    """Predicts the noise in action chunks from a condition and the robot's state."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self._schedule = squared_cosine(config.training_steps)  # no buffer: it stays float32 in a bfloat16 model

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "B T A"],
        t: Int64[Tensor, "B"] | int,
        cond: Float[Tensor, "B C D"],
        state: Float[Tensor, "B S"],
        embodiment: Int64[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B T A"]:
        """The noise in `x` at times `t`, one each or one for all; `embodiment` indexes `HeadConfig.robots`, None where
        one serves all.

        Raises:
            ValueError: a tensor of another shape than the configuration says, or an unknown embodiment.
        """

    def predictor(
        self,
        cond: Float[Tensor, "B C D"],
        state: Float[Tensor, "B S"],
        times: Int64[Tensor, "K"],
        embodiment: Int64[Tensor, "B"] | None = None,
    ) -> Predictor:
        """predict(x, t) for the denoising steps at `times`, to be called once for each and in this order.

        A head that can prepares here what depends on time and condition alone.
        """
        return lambda x, t: self(x, t, cond, state, embodiment)

    @torch.no_grad()
    def sample(
        self,
        cond: Float[Tensor, "B C D"],
        state: Float[Tensor, "B S"],
        noise: Float[Tensor, "B T A"],
        steps: int | None = None,
        *,
        embodiment: Int64[Tensor, "B"] | None = None,
        chunk_guidance: Guidance | None = None,
    ) -> Float[Tensor, "B T A"]:
        """Normalised chunks by deterministic DDIM from `noise`, clamped to [-1, 1]; 0 beyond a robot's own width.

        chunk_guidance: of rows, each of which has as many successive samples; its weights are 0 beyond that width.
        """
        schedule = self._schedule_on(noise.device)
        steps = self.config.denoise_steps if steps is None else steps
        times = [torch.full((), t, dtype=torch.int64, device=noise.device) for t in schedule.times(steps)]
        predict = self.predictor(cond, state, torch.stack(times), embodiment)
        if chunk_guidance is not None:
            predict = guide_noise(predict, schedule, chunk_guidance)
        return ddim(predict, noise * self._columns(embodiment, noise), schedule, steps, clamp=CLAMP)

    def loss(
        self,
        actions: Float[Tensor, "B T A"],
        valid: Bool[Tensor, "B T A"],
        cond: Float[Tensor, "B C D"],
        state: Float[Tensor, "B S"],
        *,
        embodiment: Int64[Tensor, "B"] | None = None,
        noise: Float[Tensor, "B K T A"] | None = None,
        time: Int64[Tensor, "B K"] | None = None,
        weight: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Term:
        """Squared error of the predicted noise, whose mean `HeadConfig.mean_over` chooses; `valid` is False on padding.

        See `term`. `noise` and `time` replace the random draws. Samples without a valid entry count nowhere.
        """
        targets = Targets(actions=actions, valid=valid, weights={}, labels={})
        draws = self.draw(actions, noise, time, generator)
        return self.term(targets, draws, cond, state, embodiment, weight)

    def draw(
        self,
        actions: Float[Tensor, "B T A"],
        noise: Float[Tensor, "B K T A"] | None,
        time: Int64[Tensor, "B K"] | None,
        generator: torch.Generator | None,
    ) -> Draws:
        """Noise and times of the noise schedule; what is not None replaces a draw."""
        if noise is None:
            shape = (len(actions), self.config.noise_draws, *actions.shape[1:])
            noise = normal(shape, generator, actions.device)
        draws = noise.shape[1]
        if time is None:
            times = 1 if self.config.shared_time else draws
            time = integers(self.config.training_steps, (len(actions), times), generator, actions.device)
            time = time.expand(-1, draws)
        return Draws(noise=noise, time=time)

    def term(
        self,
        targets: Targets,
        draws: Draws,
        cond: Float[Tensor, "B C D"],
        state: Float[Tensor, "B S"],
        embodiment: Int64[Tensor, "B"] | None = None,
        weight: float = 1.0,
    ) -> Term:
        """Squared error of the noise predicted in noised actions, times the weights of steps.

        Steps are padding or not, as published. Columns beyond a robot's actions that its layers have nevertheless (one
        set of layers for robots of several widths) are learnt as zeros: sampling starts from noise in them, too, and
        where that leads would be untaught.
        """
        actions, count = targets.actions, draws.noise.shape[1]
        x = self._schedule_on(actions.device).noised(actions[:, None], draws.noise, draws.time)
        repeated = [t if t is None else t.repeat_interleave(count, dim=0) for t in (cond, state, embodiment)]
        predicted = self(x.flatten(0, 1), draws.time.flatten(), *repeated).unflatten(0, (-1, count))
        columns = self._columns(embodiment, actions)
        return action_term(
            (predicted.float() - draws.noise.float()).square(),
            targets.steps & columns,
            step_weights(targets),
            mean_over="entries" if self.config.mean_over == "all" else "valid",
            weight=weight,
            columns=columns,
        )

    def units(self) -> list[nn.Module]:
        """Repeated layers, each of which may be sharded or compiled by itself."""
        return []

    def _columns(self, embodiment: Tensor | None, chunk: Tensor) -> Bool[Tensor, "B 1 A"]:
        """Which columns of a padded chunk are the robot's own."""
        widths, columns = [width for width, _ in self.config.robots], torch.arange(chunk.shape[-1], device=chunk.device)
        if len(widths) == 1:
            return (columns < widths[0]).expand(len(chunk), 1, -1)
        return columns < torch.tensor(widths, device=chunk.device)[embodiment][:, None, None]

    def _schedule_on(self, device: torch.device) -> Schedule:
        if self._schedule.alpha_bar.device != device:
            self._schedule = Schedule(self._schedule.alpha_bar.to(device))
        return self._schedule

    def _require_shapes(self, x: Tensor, t: Tensor, cond: Tensor, state: Tensor) -> None:
        config = self.config
        fits = x.ndim == 3 and x.shape[2] == config.action_dim and t.shape == x.shape[:1]
        fits = fits and cond.ndim == 3 and cond.shape[::2] == (len(x), config.cond_dim)
        if not (fits and state.shape == (len(x), config.state_dim)):
            raise ValueError(
                f"x {tuple(x.shape)}, t {tuple(t.shape)}, cond {tuple(cond.shape)} and state {tuple(state.shape)} "
                f"disagree; expected [B, T, {config.action_dim}], [B], [B, N, {config.cond_dim}] and "
                f"[B, {config.state_dim}]."
            )


class ConditionedDiffusion(ActionHead):
    """A diffusion network behind a backbone's feature "condition" [B, C, D]; its term is "diffusion".

    Heads that make their condition of other things override `request` and `condition`.
    """

    request = ContextRequest(features=("condition",))
    terms = ("diffusion",)
    chunk_guidance = NOISE_GUIDANCE

    def __init__(self, denoiser: DiffusionHead) -> None:
        super().__init__()
        self.denoiser = denoiser

    def condition(self, context: Context) -> Float[Tensor, "B C D"]:
        """The condition of each row."""
        return context.features["condition"]

    def draw(
        self, targets: Targets, noise: Tensor | None, time: Tensor | None, generator: torch.Generator | None
    ) -> Draws:
        """Noise, and int64 times of the noise schedule."""
        return self.denoiser.draw(targets.actions, noise, time, generator)

    def losses(self, context: Context, targets: Targets, draws: Draws) -> dict[str, Term]:
        cond = self.condition(context)
        return {"diffusion": self.denoiser.term(targets, draws, cond, context.state, context.embodiment)}

    def nothing(self, device: torch.device) -> dict[str, Term]:
        return {"diffusion": nothing(1.0, device)}

    def denoise(self, context: Context, x: Float[Tensor, "B N T A"], t: Int64[Tensor, "B N"]) -> Tensor:
        """The noise in x at times t; the N samples of a row share its condition."""
        noise = self.denoiser(x.flatten(0, 1), t.flatten(), *self._repeated(context, x.shape[1]))
        return noise.unflatten(0, x.shape[:2])

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
        """Chunks by DDIM; there is no classifier-free guidance."""
        cond, state, embodiment = self._repeated(context, noise.shape[1])
        actions = self.denoiser.sample(
            cond, state, noise.flatten(0, 1), steps, embodiment=embodiment, chunk_guidance=chunk_guidance
        )
        return Sampled(actions=actions.unflatten(0, noise.shape[:2]))

    def _repeated(self, context: Context, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """Condition, state and embodiment of each sample."""
        of_row = (self.condition(context), context.state, context.embodiment)
        cond, state, embodiment = (t.repeat_interleave(samples, dim=0) for t in of_row)
        return cond, state, embodiment

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {"head": list(self.denoiser.parameters())}

    def units(self) -> list[nn.Module]:
        return self.denoiser.units()

"""What every diffusion head does: the loss of its predicted noise, and DDIM sampling.

Dimensions: B samples, K noise draws, T horizon, A and S padded widths of chunk and state, N condition tokens of
width D.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.contract import Term
from visuomotor.models.dexvla.config import HeadConfig
from visuomotor.nn.diffusion import Schedule, ddim, squared_cosine
from visuomotor.nn.random import integers, normal

__all__ = ["DiffusionHead"]

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
        cond: Float[Tensor, "B N D"],
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
        cond: Float[Tensor, "B N D"],
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
        cond: Float[Tensor, "B N D"],
        state: Float[Tensor, "B S"],
        noise: Float[Tensor, "B T A"],
        steps: int | None = None,
        *,
        embodiment: Int64[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B T A"]:
        """Normalised chunks by deterministic DDIM from `noise`, clamped to [-1, 1]; 0 beyond a robot's own width."""
        schedule = self._schedule_on(noise.device)
        steps = self.config.denoise_steps if steps is None else steps
        times = [torch.full((), t, dtype=torch.int64, device=noise.device) for t in schedule.times(steps)]
        predict = self.predictor(cond, state, torch.stack(times), embodiment)
        return ddim(predict, noise * self._own(embodiment, noise), schedule, steps, clamp=CLAMP)

    def loss(
        self,
        actions: Float[Tensor, "B T A"],
        valid: Bool[Tensor, "B T A"],
        cond: Float[Tensor, "B N D"],
        state: Float[Tensor, "B S"],
        *,
        embodiment: Int64[Tensor, "B"] | None = None,
        noise: Float[Tensor, "B K T A"] | None = None,
        time: Int64[Tensor, "B K"] | None = None,
        weight: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Term:
        """Squared error of the predicted noise, whose mean `HeadConfig.mean_over` chooses; `valid` is False on padding.

        Steps are padding or not, as published. Columns beyond a robot's actions that its layers have nevertheless (one
        set of layers for robots of several widths) are learnt as zeros: sampling starts from noise in them, too, and
        where that leads would be untaught. `noise` and `time` replace the random draws. Samples without a valid entry
        have no actions, and count nowhere.
        """
        if noise is None:
            shape = (len(actions), self.config.noise_draws, *actions.shape[1:])
            noise = normal(shape, generator, actions.device)
        draws = noise.shape[1]
        if time is None:
            times = 1 if self.config.shared_time else draws
            time = integers(self.config.training_steps, (len(actions), times), generator, actions.device)
            time = time.expand(-1, draws)
        x = self._schedule_on(actions.device).noised(actions[:, None], noise, time)
        told = [t if t is None else t.repeat_interleave(draws, dim=0) for t in (cond, state, embodiment)]
        found = self(x.flatten(0, 1), time.flatten(), *told).unflatten(0, (-1, draws))
        valid = valid.any(-1, keepdim=True) & self._own(embodiment, actions)
        error = (found.float() - noise.float()).square().mul(valid[:, None]).flatten(1).sum(1)
        counted = valid
        if self.config.mean_over == "all":
            counted = self._own(embodiment, actions) & valid.flatten(1).any(1)[:, None, None]
            counted = counted.expand_as(valid)
        count = draws * counted.flatten(1).sum(1).float()
        rows = torch.stack([error.detach(), count])
        return Term(sum=error.sum(), count=count.sum(), weight=weight, rows=rows)

    def _own(self, embodiment: Tensor | None, chunk: Tensor) -> Bool[Tensor, "B 1 A"]:
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

"""Denoising diffusion with a discrete schedule: noising, what a network may predict, DDIM and ancestral sampling.

With ab = alpha_bar(t), the product of all 1 - beta up to t:  x_t = sqrt(ab) * x0 + sqrt(1 - ab) * eps  and
v = sqrt(ab) * eps - sqrt(1 - ab) * x0. Time 0 has almost no noise. Tables are made in float64 and kept in float32.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from visuomotor.nn.random import normal

__all__ = ["Schedule", "ddim", "ddpm", "spaced_times", "squared_cosine"]


@dataclass(frozen=True, eq=False)
class Schedule:
    """`alpha_bar` float32[T], falling; times are int64 in 0 ... T - 1, one for each sample (the leading dimensions)."""

    alpha_bar: Float[Tensor, "T"]

    @property
    def steps(self) -> int:
        return len(self.alpha_bar)

    def scales(self, time: Int64[Tensor, "*B"], like: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(ab), sqrt(1 - ab)) at `time`, shaped to multiply `like`."""
        ab = self.alpha_bar.to(time.device)[time]
        ab = ab.reshape(ab.shape + (1,) * (like.ndim - ab.ndim))
        return ab.sqrt(), (1 - ab).sqrt()

    def noised(self, data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """x_t."""
        signal, sigma = self.scales(time, data)
        return signal * data + sigma * noise

    def data_from_noise(self, x: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        signal, sigma = self.scales(time, x)
        return (x - sigma * noise) / signal

    def times(self, steps: int) -> list[int]:
        """`steps` times for sampling, from noisy to clean: multiples of T // steps, 0 the last one.

        Raises:
            ValueError: more steps than the schedule has, or none.
        """
        if not 1 <= steps <= self.steps:
            raise ValueError(f"Sampling takes 1 to {self.steps} steps of this schedule, not {steps}.")
        stride = self.steps // steps
        return [stride * i for i in reversed(range(steps))]


def spaced_times(total: int, steps: int) -> list[int]:
    """`steps` of `total` times from noisy to clean: from 0 on with the smallest stride that gives exactly as many.

    Raises:
        ValueError: no whole stride does.
    """
    counts = {len(range(0, total, stride)): stride for stride in reversed(range(1, total + 1))}
    if steps not in counts:
        near = sorted(sorted(counts, key=lambda count: abs(count - steps))[:2])
        raise ValueError(f"No whole stride takes {steps} of {total} steps; choose {' or '.join(map(str, near))}.")
    return list(range(0, total, counts[steps]))[::-1]


def squared_cosine(steps: int = 100, largest_beta: float = 0.999) -> Schedule:
    """The schedule of Nichol and Dhariwal (2021): ab(s) = cos^2((s + 0.008) / 1.008 * pi / 2), betas capped."""

    def alpha_bar(s: float) -> float:
        return math.cos((s + 0.008) / 1.008 * math.pi / 2) ** 2

    kept = [1 - min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), largest_beta) for i in range(steps)]
    # On the CPU also where a model is built on the meta device: a table that holds nothing would be of no use.
    return Schedule(torch.tensor(kept, dtype=torch.float64, device="cpu").cumprod(0).float())


def ddim(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Float[Tensor, "B ..."],
    schedule: Schedule,
    steps: int | Sequence[int],
    *,
    clamp: float | None = None,
) -> Tensor:
    """Deterministic DDIM (eta 0) from `noise`; `predict(x, t)` returns the noise in x at times t int64[B].

    steps: how many of `schedule.times`, or the times themselves, from noisy to clean.
    clamp: bounds the estimate of the data in every step; the predicted noise is not computed again after it, as in
    diffusers. Behind the last time stands a clean sample (alpha_bar 1).
    """
    x, times = noise, schedule.times(steps) if isinstance(steps, int) else list(steps)
    kept = schedule.alpha_bar.to(noise.device)
    signals, sigmas = kept.sqrt(), (1 - kept).sqrt()  # of all times at once: each step only slices them
    for i, time in enumerate(times):
        t = torch.full((noise.shape[0],), time, dtype=torch.int64, device=noise.device)
        eps = predict(x, t)
        data = (x - sigmas[time : time + 1] * eps) / signals[time : time + 1]
        if clamp is not None:
            data = data.clamp(-clamp, clamp)
        if i + 1 == len(times):
            return data
        after = slice(times[i + 1], times[i + 1] + 1)
        x = signals[after] * data + sigmas[after] * eps
    return x


def ddpm(
    predict: Callable[[Tensor, Tensor], Tensor],
    noise: Float[Tensor, "B ..."],
    schedule: Schedule,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ancestral sampling through all times, with the variance of the posterior (Ho et al., 2020, equations 6 and 7)."""
    x = noise
    kept = schedule.alpha_bar.to(noise.device)
    for time in reversed(range(schedule.steps)):
        t = torch.full((noise.shape[0],), time, dtype=torch.int64, device=noise.device)
        data = schedule.data_from_noise(x, predict(x, t), t)
        if time == 0:
            return data
        ab, before = kept[time], kept[time - 1]
        alpha, rest = ab / before, (1 - before) / (1 - ab)
        mean = before.sqrt() * (1 - alpha) / (1 - ab) * data + alpha.sqrt() * rest * x
        fresh = normal(tuple(x.shape), generator, x.device, x.dtype)
        x = mean + (rest * (1 - alpha)).sqrt() * fresh
    return x

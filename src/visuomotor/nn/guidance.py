"""Real-time chunking: a chunk is drawn so that it goes on from the one that still runs (Black et al. 2025).

While the policy thinks, the first d actions of its new chunk are executed from the old one. So those are given, and
the rest of the old chunk pulls the new one the less, the later it is. Flow time here is 1 for noise and 0 for data,
the other way round than in the paper: its tau is 1 - t, its velocity the negative of ours.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from visuomotor.nn.diffusion import Schedule
from visuomotor.nn.flow import data_from_velocity

__all__ = ["GUIDANCE", "NOISE_GUIDANCE", "Field", "Guidance", "guide", "guide_noise", "prefix_weights"]

GUIDANCE = ("guided", "identity", "prefix")
NOISE_GUIDANCE = ("guided", "identity")  # of heads that take one diffusion time for a whole chunk
Field = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How a chunk is tied to the actions that were planned before.

    target     normalised, what was planned; any finite number where nothing was
    weights    0 leaves an action free, 1 ties it
    kind       "guided": the velocity is corrected by the vector-Jacobian product of the predicted chunk; "identity":
               the Jacobian is taken for the identity, which costs no backward pass; "prefix": steps of weight 1 are
               given at flow time 0, for models whose training knows that (training-time real-time chunking)
    most       the largest factor of the correction, beta
    """

    target: Float[Tensor, "B T A"]
    weights: Float[Tensor, "B T A"]
    kind: str = "guided"
    most: float = 5.0

    def __post_init__(self) -> None:
        if self.kind not in GUIDANCE:
            raise ValueError(f"Unknown guidance {self.kind!r}; choose from {', '.join(GUIDANCE)}.")


def prefix_weights(delay: int, overlap: int, horizon: int) -> Float[Tensor, "T"]:
    """The weights of a chunk's actions: 1 before `delay`, falling to 0 at `overlap`, the number of planned actions.

    W_i = c (e^c - 1) / (e - 1) with c = (overlap - i) / (overlap - delay + 1) in between.
    """
    if not 0 <= delay <= overlap <= horizon:
        raise ValueError(f"Expected 0 <= delay <= overlap <= horizon; given {delay}, {overlap} and {horizon}.")
    step = torch.arange(horizon)
    c = ((overlap - step) / (overlap - delay + 1)).clamp(0, 1)
    return torch.where(step < delay, torch.ones(()), c * torch.expm1(c) / (math.e - 1))


def guide(field: Field, noise: Float[Tensor, "B N T A"], guidance: Guidance) -> tuple[Field, Tensor]:
    """The guided velocity field, and the noise to begin at."""
    target, weights = guidance.target[:, None], guidance.weights[:, None]
    if guidance.kind == "prefix":
        return _given_prefix(field, noise, target, (weights == 1).any(-1, keepdim=True))

    def corrected(x: Tensor, t: Tensor) -> Tensor:
        if guidance.kind == "identity":
            v = field(x, t)
            pull = weights * (target - data_from_velocity(x, v, t))
        else:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                v = field(x, t)
                data = data_from_velocity(x, v, t)
                error = weights * (target - data.detach())
                (pull,) = torch.autograd.grad(data, x, error)
            v = v.detach()
        # min(beta, (1 - tau) / (tau r^2)) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2)
        factor = (((1 - t).square() + t.square()) / (t * (1 - t))).clamp_max(guidance.most)
        return v - factor[..., None, None].to(pull.dtype) * pull

    return corrected, noise


def guide_noise(predict: Field, schedule: Schedule, guidance: Guidance) -> Field:
    """The guided form of a noise predictor (x [B * N, T, A], t int64[B * N]) -> noise, samples of a row in succession.

    A noise predictor is a flow in other coordinates. With x = signal * data + sigma * noise,
    t = sigma / (signal + sigma) and x / (signal + sigma) are a flow's time and state, whose data and noise are the
    same. DDIM steps are Euler steps of that flow.

    Raises:
        ValueError: guidance of kind "prefix", which needs a time for each action.
    """
    if guidance.kind not in NOISE_GUIDANCE:
        raise ValueError(
            f"A diffusion head has one time for the whole chunk, so it takes no {guidance.kind!r} guidance; choose "
            f"{' or '.join(NOISE_GUIDANCE)}."
        )
    size = len(guidance.target)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        signal, sigma = schedule.scales(t, x)
        scale = signal + sigma

        def field(state: Tensor, _: Tensor) -> Tensor:
            inside = state.flatten(0, 1) * scale
            noise = predict(inside, t)
            return (noise - (inside - sigma * noise) / signal).unflatten(0, state.shape[:2])

        state, time = (part.unflatten(0, (size, -1)) for part in (x / scale, (sigma / scale).flatten()))
        velocities, _ = guide(field, state, guidance)
        noise = state + (1 - time)[..., None, None] * velocities(state, time)
        return noise.flatten(0, 1).to(x.dtype)

    return guided


def _given_prefix(field: Field, noise: Tensor, target: Tensor, given: Tensor) -> tuple[Field, Tensor]:
    """Steps that are `given` [B, 1, T, 1] stand at the target from the beginning, at flow time 0."""

    def held(x: Tensor, t: Tensor) -> Tensor:
        times = t[..., None].masked_fill(given[..., 0], 0.0)
        return field(x, times).masked_fill(given, 0.0)

    return held, torch.where(given, target, noise)

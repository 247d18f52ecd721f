"""Flow matching in one convention: flow time 1 is noise, 0 is data.

x_t = t * noise + (1 - t) * data, velocity = noise - data, and sampling walks t from 1 to 0.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from visuomotor.nn.random import uniform

__all__ = ["data_from_velocity", "euler", "euler_times", "interpolate", "sample_time", "time_code", "velocity"]


def sample_time(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device | str) -> Tensor:
    """t = 0.999 * Beta(1.5, 1) + 0.001: more weight on noisy times, never exactly 0. Beta(a, 1) is U^(1/a)."""
    return 0.999 * uniform(shape, generator, torch.device(device)) ** (1 / 1.5) + 0.001


def interpolate(data: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """x_t; `time` has the leading dimensions of `noise`, `data` broadcasts."""
    t = _expand(time, noise)
    return t * noise + (1 - t) * data


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """The regression target dx/dt."""
    return noise - data


def data_from_velocity(x: Tensor, v: Tensor, time: Tensor) -> Tensor:
    return x - _expand(time, x) * v


def time_code(
    time: Float[Tensor, "*B"], width: int, shortest: float = 4e-3, longest: float = 4.0, *, wide: bool = False
) -> Tensor:
    """[sin | cos] of width / 2 periods spaced geometrically: float32[*B, width].

    Computed in float64 off the CPU and in float32 on it, as the published DM0; `wide`: in float64 there, too (pi0).
    """
    if width % 2:
        raise ValueError(f"The time code is half sines and half cosines: width {width} must be even.")
    narrow = ("mps",) if wide else ("cpu", "mps")
    dtype = torch.float32 if time.device.type in narrow else torch.float64
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=dtype, device=time.device)
    period = shortest * (longest / shortest) ** fraction
    angle = time.to(dtype)[..., None] * (2 * math.pi / period)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).float()


def euler_times(steps: int, device: torch.device | str | None = None) -> Float[Tensor, "steps"]:
    """t = 1, 1 - 1/steps, ..., 1/steps, at which `euler` asks for velocities."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; sampling needs at least one evaluation.")
    # In float64 where there is one: the time code's shortest period makes a bit of t a visible angle.
    dtype = torch.float32 if torch.device(device or "cpu").type == "mps" else torch.float64
    return (1 - torch.arange(steps, dtype=dtype, device=device) / steps).float()


def euler(field: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Integrate `field(x, t)` from t = 1 to 0 with `steps` evaluations, at `euler_times`.

    `noise` is [B, N, ...]; t is passed as [B, N].
    """
    x = noise
    for t in euler_times(steps, noise.device).unbind():
        x = x - field(x, t.expand(noise.shape[:2])) / steps
    return x


def _expand(time: Tensor, like: Tensor) -> Tensor:
    return time.reshape(time.shape + (1,) * (like.ndim - time.ndim)).to(like.dtype)

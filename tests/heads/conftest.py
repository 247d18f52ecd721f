"""Heads of a few thousand parameters with random weights, and inputs for them."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from visuomotor.heads.diffusion_config import ScaleDPConfig, UNetConfig
from visuomotor.heads.scaledp import ScaleDP
from visuomotor.heads.unet import UNet

TINY = {
    "action_dim": 3,
    "state_dim": 2,
    "cond_dim": 12,
    "horizon": 4,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "combine_width": 10,
    "time_size": 8,
}
TINY_UNET = {
    "action_dim": 3,
    "state_dim": 2,
    "cond_dim": 12,
    "horizon": 8,
    "step_width": 6,
    "channels": (16, 24, 32),
    "kernel": 3,
    "groups": 4,
}
ROBOTS = {
    "action_dim": 5,
    "state_dim": 4,
    "embodiments": ("arm", "hand", "bimanual"),
    "action_dims": (3, 2, 5),
    "state_dims": (2, 0, 4),
}


@dataclass(frozen=True)
class Inputs:
    x: Tensor
    t: Tensor
    cond: Tensor
    state: Tensor

    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.x, self.t, self.cond, self.state


@torch.no_grad()
def randomise(head: nn.Module, deviation: float = 0.2) -> None:
    """Weights without the zeros of the initialisation."""
    generator = torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        parameter.normal_(0, deviation, generator=generator)


@pytest.fixture
def make_scaledp() -> Callable[..., ScaleDP]:
    def make(**overrides: object) -> ScaleDP:
        head = ScaleDP(ScaleDPConfig(**{**TINY, **overrides}))
        randomise(head)
        return head

    return make


@pytest.fixture
def make_robots(make_scaledp: Callable[..., ScaleDP]) -> Callable[..., ScaleDP]:
    """A head for three robots of different widths."""
    return lambda **overrides: make_scaledp(**{**ROBOTS, **overrides})


@pytest.fixture
def make_unet() -> Callable[..., UNet]:
    def make(**overrides: object) -> UNet:
        head = UNet(UNetConfig(**{**TINY_UNET, **overrides}))
        randomise(head)
        return head

    return make


@pytest.fixture
def make_inputs() -> Callable[..., Inputs]:
    def make(head: ScaleDP | UNet, rows: int = 3, tokens: int = 1, seed: int = 1) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        config = head.config

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        return Inputs(
            x=draw(rows, config.horizon, config.action_dim),
            t=torch.randint(100, (rows,), generator=generator),
            cond=draw(rows, tokens, config.cond_dim),
            state=draw(rows, config.state_dim),
        )

    return make

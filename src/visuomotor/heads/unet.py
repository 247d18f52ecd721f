"""The convolutional baseline of ScaleDP: a conditional 1-D UNet (Chi et al., 2023) under the published names.

Dimensions: B samples, C channels, T actions.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from visuomotor.heads.diffusion import DiffusionHead
from visuomotor.heads.diffusion_config import UNetConfig
from visuomotor.nn.dit import per_sample, sinusoids

__all__ = ["UNet"]


class ConvolutionBlock(nn.Module):
    """Convolution, group norm, Mish (`block.0`, `block.1`)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int) -> None:
        super().__init__()
        convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.block = nn.Sequential(convolution, nn.GroupNorm(groups, outputs), nn.Mish())

    def forward(self, x: Float[Tensor, "B C T"]) -> Tensor:
        return self.block(x)


class ResidualBlock(nn.Module):
    """Two convolution blocks with FiLM between them: channels are multiplied by `scale`, not by 1 + `scale`."""

    def __init__(self, inputs: int, outputs: int, cond_dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        first = ConvolutionBlock(inputs, outputs, kernel, groups)
        self.blocks = nn.ModuleList([first, ConvolutionBlock(outputs, outputs, kernel, groups)])
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(cond_dim, 2 * outputs))
        self.residual_conv = nn.Identity() if inputs == outputs else nn.Conv1d(inputs, outputs, 1)

    def forward(self, x: Float[Tensor, "B C T"], cond: Float[Tensor, "B D"]) -> Tensor:
        scale, bias = self.cond_encoder(cond)[..., None].chunk(2, dim=1)
        return self.blocks[1](scale * self.blocks[0](x) + bias) + self.residual_conv(x)


class Resampling(nn.Module):
    """Halves or doubles the length (`conv`)."""

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Float[Tensor, "B C T"]) -> Tensor:
        return self.conv(x)


class UNet(DiffusionHead):
    """The condition is the mean over its tokens, of which the published head has one."""

    config: UNetConfig

    def __init__(self, config: UNetConfig) -> None:
        super().__init__(config)
        cond, step, channels = config.cond_dim, config.step_width, config.channels
        self.norm_after_pool = nn.LayerNorm(cond)
        self.combine = nn.Linear(cond + config.state_dim, cond)
        # The published module 0 makes the sinusoids; here they come in.
        self.diffusion_step_encoder = nn.Sequential(
            nn.Identity(), nn.Linear(step, 4 * step), nn.Mish(), nn.Linear(4 * step, step)
        )

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, step + cond, config.kernel, config.groups)

        down, up = [], []
        for level, (inputs, outputs) in enumerate(pairwise((config.action_dim, *channels))):
            last = level == len(channels) - 1
            shorter = nn.Identity() if last else Resampling(nn.Conv1d(outputs, outputs, 3, stride=2, padding=1))
            down.append(nn.ModuleList([block(inputs, outputs), block(outputs, outputs), shorter]))
            if level > 0:
                longer = Resampling(nn.ConvTranspose1d(inputs, inputs, 4, stride=2, padding=1))
                up.append(nn.ModuleList([block(2 * outputs, inputs), block(inputs, inputs), longer]))
        self.down_modules = nn.ModuleList(down)
        self.mid_modules = nn.ModuleList([block(channels[-1], channels[-1]) for _ in range(2)])
        self.up_modules = nn.ModuleList(up[::-1])
        self.final_conv = nn.Sequential(
            ConvolutionBlock(channels[0], channels[0], config.kernel, config.final_groups),
            nn.Conv1d(channels[0], config.action_dim, 1),
        )

    def forward(
        self,
        x: Float[Tensor, "B T A"],
        t: Int64[Tensor, "B"] | int,
        cond: Float[Tensor, "B N D"],
        state: Float[Tensor, "B S"],
        embodiment: Int64[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B T A"]:
        """See `DiffusionHead.forward`. All robots share all layers, so `embodiment` changes nothing.

        The length may be any multiple of `UNetConfig.length_unit`.
        """
        t = per_sample(t, x)
        self._require_shapes(x, t, cond, state)
        if x.shape[1] % self.config.length_unit:
            raise ValueError(f"A chunk of {x.shape[1]} actions is not divisible by {self.config.length_unit}.")
        dtype = self.combine.weight.dtype
        told = self._feature(t, cond.to(dtype), state.to(dtype))
        h, skips = x.to(dtype).transpose(1, 2), []
        for level in self.down_modules:
            h = _through(level, h, told)
            skips.append(h)
            h = _resampled(level, h)
        for block in self.mid_modules:
            h = block(h, told)
        for level in self.up_modules:
            h = _resampled(level, _through(level, torch.cat([h, skips.pop()], dim=1), told))
        return self.final_conv(h).transpose(1, 2)

    def _feature(self, t: Tensor, cond: Tensor, state: Tensor) -> Float[Tensor, "B D"]:
        """[step | condition], which every residual block is told."""
        table = getattr(torch, self.config.time_table)
        code = sinusoids(t, self.config.step_width, dtype=table, sine_first=True, reach_last=True, round_all=True)
        mixed = self.combine(torch.cat([self.norm_after_pool(cond.mean(1)), state], dim=-1))
        return torch.cat([self.diffusion_step_encoder(code.to(mixed.dtype)), mixed], dim=-1)


def _through(level: nn.Module, h: Tensor, told: Tensor) -> Tensor:
    assert isinstance(level, nn.ModuleList)
    return level[1](level[0](h, told), told)


def _resampled(level: nn.Module, h: Tensor) -> Tensor:
    assert isinstance(level, nn.ModuleList)
    return level[2](h)

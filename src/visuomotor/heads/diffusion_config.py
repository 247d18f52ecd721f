"""Every dimension and option of diffusion heads behind one condition, and ScaleDP's named sizes."""

from dataclasses import dataclass
from typing import Literal

from visuomotor.spelling import require_choices

__all__ = ["SCALEDP_SIZES", "HeadConfig", "ScaleDPConfig", "TimeTable", "UNetConfig"]

TimeTable = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """What all diffusion heads share.

    action_dim, state_dim   widths of chunk and state as they come in
    cond_dim                width of the condition
    horizon                 actions in a chunk
    training_steps          times of the noise schedule, `denoise_steps` of which sampling visits
    noise_draws             noise samples per chunk and training step
    shared_time             which share one time (published); else each has its own, and the loss is less noisy
    mean_over               the loss is a mean over the entries that are not padding ("valid"), or over all of them,
                            where padding adds nothing to the sum and still counts ("all", published)
    time_table              precision of the time embedding's table, from its indices on (`nn.dit.sinusoids`);
                            the released weights learned with bfloat16
    """

    action_dim: int = 14
    state_dim: int = 14
    cond_dim: int = 1536
    horizon: int = 50
    training_steps: int = 100
    denoise_steps: int = 10
    noise_draws: int = 1
    shared_time: bool = True
    mean_over: Literal["valid", "all"] = "valid"
    time_table: TimeTable = "float32"

    def __post_init__(self) -> None:
        for name in ("action_dim", "cond_dim", "horizon", "training_steps", "denoise_steps", "noise_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.state_dim < 0:
            raise ValueError(f"state_dim is {self.state_dim}; it is 0 for a robot that reports no state, or more.")
        if self.denoise_steps > self.training_steps:
            raise ValueError(
                f"{self.denoise_steps} denoise_steps do not fit into {self.training_steps} training_steps."
            )
        require_choices(self)

    @property
    def robots(self) -> tuple[tuple[int, int], ...]:
        """(action width, state width) of each set of layers for a robot; a single one serves every robot."""
        return ((self.action_dim, self.state_dim),)


@dataclass(frozen=True, kw_only=True)
class ScaleDPConfig(HeadConfig):
    """A diffusion transformer (Zhu et al., 2024); defaults are `SCALEDP_SIZES["Ti"]`.

    width, depth, heads, mlp_ratio   of the trunk
    combine_width                    hidden width of the MLP that mixes condition and state
    time_size                        sinusoids of time
    pooled                           the condition is a sequence, whose mean goes through a LayerNorm ("TinyVLA")
    embodiments                      names of the robots that have layers of their own on the shared trunk, in the order
                                     of `Batch.embodiment`, with their widths in `action_dims` and `state_dims`; chunk
                                     and state come padded to `action_dim` and `state_dim`. None or one: plain names
    initialisation                   "dit": adaLN and output start at zero (Peebles and Xie, 2023), for training from
                                     nothing; "published": normal with deviation 0.02 everywhere
    """

    width: int = 256
    depth: int = 8
    heads: int = 4
    mlp_ratio: float = 4.0
    combine_width: int = 1024
    time_size: int = 256
    pooled: bool = False
    embodiments: tuple[str, ...] = ()
    action_dims: tuple[int, ...] = ()
    state_dims: tuple[int, ...] = ()
    initialisation: Literal["dit", "published"] = "dit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth < 1 or self.heads < 1 or self.width % self.heads:
            raise ValueError(f"{self.depth} blocks of width {self.width} with {self.heads} heads cannot be built.")
        if self.time_size < 2 or self.time_size % 2:
            raise ValueError(f"time_size is {self.time_size}, but must be even: half cosines, half sines.")
        self._require_robots()

    def _require_robots(self) -> None:
        names = self.embodiments
        if not len(names) == len(self.action_dims) == len(self.state_dims):
            raise ValueError(
                f"{len(names)} embodiments have {len(self.action_dims)} action_dims and {len(self.state_dims)} "
                "state_dims; give one of each for each embodiment."
            )
        if len(set(names)) < len(names) or any(not name or "." in name for name in names):
            raise ValueError(f"Names of embodiments differ, are not empty and have no dot; got {list(names)}.")
        for name, action_dim, state_dim in zip(names, self.action_dims, self.state_dims, strict=True):
            if not (1 <= action_dim <= self.action_dim and 0 <= state_dim <= self.state_dim):
                raise ValueError(
                    f"Embodiment {name!r} has {action_dim} actions and {state_dim} states, but chunks are padded to "
                    f"action_dim {self.action_dim} and states to state_dim {self.state_dim}."
                )

    @property
    def robots(self) -> tuple[tuple[int, int], ...]:
        if not self.embodiments:
            return ((self.action_dim, self.state_dim),)
        return tuple(zip(self.action_dims, self.state_dims, strict=True))


SCALEDP_SIZES: dict[str, dict] = {
    "Ti": {"depth": 8, "width": 256, "heads": 4},
    "S": {"depth": 12, "width": 384, "heads": 6},
    "B": {"depth": 12, "width": 768, "heads": 12},
    "L": {"depth": 24, "width": 1024, "heads": 16},
    "H": {"depth": 32, "width": 1280, "heads": 16},
}


@dataclass(frozen=True, kw_only=True)
class UNetConfig(HeadConfig):
    """The 1-D convolutional baseline (Chi et al., 2023); defaults are those of the published class.

    step_width     sinusoids of time, and width of their embedding
    channels       of each level; between levels the chunk is halved
    kernel, groups of the convolutions and of the group norms behind them
    final_groups   groups behind the last convolution: published 8, whatever the others have
    """

    action_dim: int = 10
    state_dim: int = 7
    cond_dim: int = 2048
    horizon: int = 16
    step_width: int = 256
    channels: tuple[int, ...] = (256, 512, 1024)
    kernel: int = 5
    groups: int = 8
    final_groups: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_width < 4 or self.step_width % 2:
            raise ValueError(
                f"step_width is {self.step_width}, but must be even and at least 4: half sines, half cosines."
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}, but must be odd: convolutions keep the length of a chunk.")
        if not self.channels or min(self.channels) < 1 or self.groups < 1 or self.final_groups < 1:
            raise ValueError(
                f"channels {self.channels}, groups {self.groups} and final_groups {self.final_groups} must be positive."
            )
        if any(width % self.groups for width in self.channels) or self.channels[0] % self.final_groups:
            raise ValueError(
                f"channels {self.channels} do not split into {self.groups} groups, or the first into "
                f"{self.final_groups} final_groups."
            )
        if self.horizon % self.length_unit:
            raise ValueError(
                f"Horizon {self.horizon} is not divisible by {self.length_unit}: {len(self.channels)} levels halve the "
                f"chunk {len(self.channels) - 1} times."
            )

    @property
    def length_unit(self) -> int:
        """What the length of a chunk must be a multiple of."""
        return 2 ** (len(self.channels) - 1)

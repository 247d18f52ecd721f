"""OpenVLA-OFT's action head: a residual MLP that turns the states in front of the queries into an action chunk.

Names inside `ActionRegressor` are the published ones. Dimensions: B batch, T horizon, A action width, C width of a
state, W width inside the MLP, S width of the robot's state.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.contract import Batch, Sampled, Term
from visuomotor.heads.base import ActionHead, Draws, Targets, action_term, step_weights
from visuomotor.nn.guidance import Guidance
from visuomotor.nn.terms import nothing

__all__ = ["ActionRegressor", "L1RegressionConfig", "L1RegressionHead", "StateProjector"]


@dataclass(frozen=True, kw_only=True)
class L1RegressionConfig:
    """Dimensions of the head.

    context_width   width of the states that are read, and of the state's token
    hidden          width inside the MLP
    state_dim       width of the robot's state, which becomes a token behind the views; 0: it is not read
    mask_padded     the loss averages over valid entries only, else over everything
    """

    context_width: int
    hidden: int
    horizon: int
    action_dim: int
    state_dim: int = 0
    blocks: int = 2
    mask_padded: bool = True

    def __post_init__(self) -> None:
        for name in ("context_width", "hidden", "horizon", "action_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.blocks < 0 or self.state_dim < 0:
            raise ValueError(f"blocks is {self.blocks} and state_dim {self.state_dim}; both must be at least 0.")


class ResidualBlock(nn.Module):
    """x + ReLU(linear(norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Float[Tensor, "B T W"]) -> Float[Tensor, "B T W"]:
        return x + self.ffn(x)


class ActionRegressor(nn.Module):
    """Norm, linear, residual blocks, norm, linear; the states of one action stand side by side."""

    def __init__(self, config: L1RegressionConfig) -> None:
        super().__init__()
        inputs = config.action_dim * config.context_width
        self.layer_norm1 = nn.LayerNorm(inputs)
        self.fc1 = nn.Linear(inputs, config.hidden)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(config.hidden) for _ in range(config.blocks))
        self.layer_norm2 = nn.LayerNorm(config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.action_dim)

    def forward(self, x: Float[Tensor, "B T AC"]) -> Float[Tensor, "B T A"]:
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        return self.fc2(self.layer_norm2(x))


class StateProjector(nn.Module):
    """Two linears with a GELU between them."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, state: Float[Tensor, "B S"]) -> Float[Tensor, "B C"]:
        return self.fc2(F.gelu(self.fc1(state.to(self.fc1.weight.dtype))))


class L1RegressionHead(ActionHead):
    """The chunk itself is predicted, so nothing is drawn and nothing is denoised. Term "l1"."""

    terms = ("l1",)

    def __init__(self, config: L1RegressionConfig) -> None:
        super().__init__()
        self.config = config
        self.request = ContextRequest(layers=(-1,), at="queries", queries=config.horizon * config.action_dim)
        self.model = ActionRegressor(config)
        self.proprio_projector = StateProjector(config.state_dim, config.context_width) if config.state_dim else None

    def insert(self, batch: Batch) -> Float[Tensor, "B 1 C"] | None:
        """The token of the robot's state."""
        return None if self.proprio_projector is None else self.proprio_projector(batch.state)[:, None]

    def inserting(self) -> list[nn.Parameter]:
        return [] if self.proprio_projector is None else list(self.proprio_projector.parameters())

    def predict(self, context: Context) -> Float[Tensor, "B T A"]:
        """Normalised actions."""
        states = context.states[-1].unflatten(1, (self.config.horizon, self.config.action_dim))
        return self.model(states.flatten(2).to(self.model.fc1.weight.dtype))

    def draw(
        self, targets: Targets, noise: Tensor | None, time: Tensor | None, generator: torch.Generator | None
    ) -> Draws:
        """No draws; `noise` and `time` are ignored."""
        actions = targets.actions
        return Draws(
            noise=actions.new_empty(len(actions), 0, *actions.shape[1:]), time=actions.new_empty(len(actions), 0)
        )

    def losses(self, context: Context, targets: Targets, draws: Draws) -> dict[str, Term]:
        errors = (self.predict(context).to(targets.actions.dtype) - targets.actions).abs()[:, None]
        valid = targets.valid if self.config.mask_padded else torch.ones_like(targets.valid)
        return {"l1": action_term(errors, valid, step_weights(targets))}

    def nothing(self, device: torch.device) -> dict[str, Term]:
        return {"l1": nothing(1.0, device)}

    def denoise(self, context: Context, x: Float[Tensor, "B N T A"], t: Tensor) -> Float[Tensor, "B N T A"]:
        """The chunk, whatever x and t are."""
        return self.predict(context).to(x.dtype)[:, None].expand_as(x)

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
        """One chunk for each row, N times; `noise` and `steps` are ignored, and `VLA` refuses guidance."""
        return Sampled(actions=self.denoise(context, noise, noise).clone())

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """action_head, and proprio_projector where the state is read."""
        found = {"action_head": list(self.model.parameters())}
        return found if self.proprio_projector is None else {**found, "proprio_projector": self.inserting()}

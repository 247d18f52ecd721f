"""ScaleDP: a diffusion transformer over the actions of a chunk, under the published names.

Dimensions: B samples, K denoising steps, T horizon, A and S padded widths of chunk and state, N condition tokens of
width D, E trunk width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from visuomotor.heads.diffusion import DiffusionHead, Predictor
from visuomotor.heads.diffusion_config import ScaleDPConfig
from visuomotor.heads.robots import Grouping, group_rows
from visuomotor.nn.dit import Block, TimeEmbedding, modulate, per_sample

__all__ = ["RobotLayers", "ScaleDP"]

DEVIATION = 0.02


class RobotLayers(nn.Module):
    """What belongs to one robot: its actions into the trunk, its state into the condition, its noise out again."""

    def __init__(self, config: ScaleDPConfig, action_dim: int, state_dim: int) -> None:
        super().__init__()
        hidden = config.combine_width
        self.x_embedder = nn.Linear(action_dim, config.width)
        self.combine = nn.Sequential(
            nn.Linear(config.cond_dim + state_dim, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, config.cond_dim),
        )
        self.final_layer = nn.ModuleDict({"linear": nn.Linear(config.width, action_dim)})


class ScaleDP(DiffusionHead):
    """One condition for the whole chunk modulates every block (adaLN); actions see each other without a mask.

    `checkpoint`: blocks keep only their inputs, and are computed again in the backward pass.
    """

    checkpoint = False

    config: ScaleDPConfig

    def __init__(self, config: ScaleDPConfig) -> None:
        super().__init__(config)
        width = config.width
        robots = [RobotLayers(config, *widths) for widths in config.robots]
        if config.pooled:
            self.norm_after_pool = nn.LayerNorm(config.cond_dim)
        self.t_embedder = TimeEmbedding(width, config.time_size, getattr(torch, config.time_table))
        self.cond_obs_emb = nn.Linear(config.cond_dim, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.horizon, width))
        self.blocks = nn.ModuleList(
            Block(width, config.heads, mlp_ratio=config.mlp_ratio, modulated=True) for _ in range(config.depth)
        )
        self.final_layer = nn.ModuleDict({"adaLN_modulation": nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))})
        if len(robots) == 1:  # under plain names, so that checkpoints of one robot are interchangeable
            self.x_embedder, self.combine = robots[0].x_embedder, robots[0].combine
            self.final_layer["linear"] = robots[0].final_layer["linear"]
        else:
            self.embodiments = nn.ModuleDict(dict(zip(config.embodiments, robots, strict=True)))
        _initialise(self)

    def forward(
        self,
        x: Float[Tensor, "B T A"],
        t: Int64[Tensor, "B"] | int,
        cond: Float[Tensor, "B N D"],
        state: Float[Tensor, "B S"],
        embodiment: Int64[Tensor, "B"] | None = None,
    ) -> Float[Tensor, "B T A"]:
        """See `DiffusionHead.forward`. Each robot's rows go through its own layers; its padded columns are 0."""
        t = per_sample(t, x)
        self._require_shapes(x, t, cond, state)
        group = group_rows(embodiment, len(self.config.robots), len(x))
        told = self._condition(group.sort(cond), group.sort(state), group)
        rows = self.modulation(self.t_embedder(group.sort(t)) + told)
        return group.unsort(self._denoise(group.sort(x), rows, group))

    def predictor(
        self,
        cond: Float[Tensor, "B N D"],
        state: Float[Tensor, "B S"],
        times: Int64[Tensor, "K"],
        embodiment: Int64[Tensor, "B"] | None = None,
    ) -> Predictor:
        """See `DiffusionHead.predictor`. Condition and modulation of all steps come from one product each."""
        group = group_rows(embodiment, len(self.config.robots), len(cond))
        told = self._condition(group.sort(cond), group.sort(state), group)
        rows = self.modulation(self.t_embedder(times)[:, None] + told)
        steps = zip(*(row.unbind(0) for row in rows), strict=True)

        def predict(x: Tensor, t: Tensor) -> Tensor:
            self._require_shapes(x, t, cond, state)
            return group.unsort(self._denoise(group.sort(x), next(steps), group))

        return predict

    def modulation(self, condition: Float[Tensor, "*B E"]) -> list[Tensor]:
        """Shifts, scales and gates of every block [*B, 6E], then shift and scale of the output [*B, 2E]."""
        rows = []
        for block in self.blocks:
            assert isinstance(block, Block)
            rows.append(block.modulation(condition))
        return [*rows, self.final_layer["adaLN_modulation"](condition)]

    def _layers(self, robot: int) -> tuple[nn.Module, nn.Module, nn.Module]:
        """Into the trunk, into the condition, out of the trunk."""
        if len(self.config.robots) == 1:
            return self.x_embedder, self.combine, self.final_layer["linear"]
        own = self.embodiments[self.config.embodiments[robot]]
        assert isinstance(own, RobotLayers)
        return own.x_embedder, own.combine, own.final_layer["linear"]

    def _condition(self, cond: Tensor, state: Tensor, group: Grouping) -> Float[Tensor, "B E"]:
        """What the condition and the state tell the trunk; rows sorted."""
        dtype = self.cond_obs_emb.weight.dtype
        if self.config.pooled:
            cond = self.norm_after_pool(cond.to(dtype).mean(1))
        elif cond.shape[1] == 1:
            cond = cond[:, 0].to(dtype)
        else:
            raise ValueError(
                f"The condition has {cond.shape[1]} tokens, but this head takes 1; build it with pooled=True."
            )
        both = torch.cat([cond, state.to(dtype)], dim=-1)
        mixed = []
        for robot, part in group.split(both):
            width = self.config.cond_dim + self.config.robots[robot][1]
            mixed.append(self._layers(robot)[1](part[:, :width]))
        return self.cond_obs_emb(torch.cat(mixed))

    def _denoise(self, x: Tensor, rows: Sequence[Tensor], group: Grouping) -> Float[Tensor, "B T A"]:
        """The trunk between the robots' own layers; rows sorted."""
        if x.shape[1] != self.config.horizon:
            raise ValueError(
                f"Chunks have {x.shape[1]} actions, but this head has positions for {self.config.horizon}."
            )
        tokens = [
            self._layers(robot)[0](part[..., : self.config.robots[robot][0]])
            for robot, part in group.split(x.to(self.pos_embed.dtype))
        ]
        h = torch.cat(tokens) + self.pos_embed
        for block, row in zip(self.blocks, rows[:-1], strict=True):
            if self.checkpoint and torch.is_grad_enabled():
                h = checkpoint(block, h, row, use_reentrant=False, preserve_rng_state=False)
            else:
                h = block(h, row)
        shift, scale = rows[-1].chunk(2, dim=-1)
        h = modulate(F.layer_norm(h, h.shape[-1:], eps=1e-6), shift, scale)
        out = [self._layers(robot)[2](part) for robot, part in group.split(h)]
        return torch.cat([F.pad(part, (0, x.shape[-1] - part.shape[-1])) for part in out])

    def units(self) -> list[nn.Module]:
        return list(self.blocks)


@torch.no_grad()
def _initialise(head: ScaleDP) -> None:
    """See `ScaleDPConfig.initialisation`; biases are zero either way, norms keep their identity."""
    dit = head.config.initialisation == "dit"
    for module in head.modules():
        if isinstance(module, nn.Linear):
            if dit:
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.normal_(module.weight, std=DEVIATION)
            nn.init.zeros_(module.bias)
    if not dit:
        return
    for weight in (
        head.t_embedder.mlp[0].weight,
        head.t_embedder.mlp[2].weight,
        head.cond_obs_emb.weight,
        head.pos_embed,
    ):
        assert isinstance(weight, Tensor)
        nn.init.normal_(weight, std=DEVIATION)
    for name, parameter in head.named_parameters():
        if "adaLN_modulation" in name or "final_layer.linear" in name:
            nn.init.zeros_(parameter)

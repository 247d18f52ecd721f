"""The modules of DM0 under their published names, and how tokens enter and leave them."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.models.dm0.config import DM0Config
from visuomotor.nn.decoder import Decoder, GatedMLP, SelfAttention
from visuomotor.nn.flow import time_code
from visuomotor.nn.vision import PerceptionEncoder, VisionBlock, sinusoidal_grid

__all__ = ["DM0Network"]


class DM0Network(nn.Module):
    """Vision tower, projector, language model, action expert and the linears around it."""

    def __init__(self, config: DM0Config) -> None:
        super().__init__()
        width = config.expert.width
        self.config = config
        self.mm_vision_tower = nn.ModuleDict({"vision_tower": PerceptionEncoder(config.vision)})
        self.mm_projector = nn.Linear(config.vision.output_width, config.llm.width, bias=False)
        self.llm = Decoder(config.llm)
        self.action_expert = nn.ModuleDict({"model": Decoder(config.expert_decoder)})
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_time_mlp_in = nn.Linear(2 * width, width)
        self.action_time_mlp_out = nn.Linear(width, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        if config.state_token != "none":
            self.state_proj = nn.Linear(config.state_dim, config.llm.width if config.state_token == "prefix" else width)
        if config.progress_token:
            self.progress_in_proj = nn.Linear(1, width)
            self.progress_out_proj = nn.Linear(width, 1)
        initialize(self)

    @property
    def vision_tower(self) -> PerceptionEncoder:
        tower = self.mm_vision_tower["vision_tower"]
        assert isinstance(tower, PerceptionEncoder)
        return tower

    @property
    def expert(self) -> Decoder:
        expert = self.action_expert["model"]
        assert isinstance(expert, Decoder)
        return expert

    def view_tokens(self, images: list[Float[Tensor, "B 3 size size"]]) -> Float[Tensor, "B S W"]:
        """Tokens of all views in order; one call of the tower for all of them."""
        stacked = torch.cat(images).to(self.mm_projector.weight.dtype)
        tokens = self.mm_projector(self.vision_tower(stacked))
        return tokens.unflatten(0, (len(images), -1)).transpose(0, 1).flatten(1, 2)

    def embed_prefix(
        self, images: list[Tensor], state: Float[Tensor, "B S"], text_ids: Int64[Tensor, "B L"]
    ) -> Float[Tensor, "B P W"]:
        """[views | state token if it enters here | text]."""
        tokens = [self.view_tokens(images)] if images else []
        if self.config.state_token == "prefix":
            tokens.append(self.state_proj(state.to(self.state_proj.weight.dtype))[:, None])
        return torch.cat([*tokens, self.llm.embed_tokens(text_ids)], dim=1)

    def embed_chunk(
        self,
        x: Float[Tensor, "B N T A"],
        t: Float[Tensor, "B N"] | Float[Tensor, "B N T"],
        state: Float[Tensor, "B S"],
        progress: Float[Tensor, "B N"] | None = None,
        *,
        timed: Float[Tensor, "*N W"] | None = None,
    ) -> Float[Tensor, "B S W"]:
        """Tokens of all draws one after another: [state, if it enters here | progress, if told | noisy actions].

        Flow time is told to the actions, one for all or one for each, and to the progress. `timed` is
        `embed_time(t)`, where the caller has it already.

        Raises:
            ValueError: a time for each action, but one progress token, whose time would be undefined.
        """
        dtype = self.action_in_proj.weight.dtype
        width = self.config.expert.width
        action = self.action_in_proj(x.to(dtype))
        if progress is not None and t.ndim > 2:
            raise ValueError("A progress token needs one flow time for the whole chunk, t [B, N], not one per action.")
        if progress is not None:
            told = self.progress_in_proj(progress.to(dtype)[..., None, None])
            action = torch.cat([told, action], dim=2)
        # The first linear reads [action | time]; its time half is the same for the whole chunk.
        timed = self.embed_time(t) if timed is None else timed
        hidden = F.linear(action, self.action_time_mlp_in.weight[:, :width])
        hidden = hidden + (timed[..., None, :] if t.ndim == 2 else timed)
        tokens = self.action_time_mlp_out(F.silu(hidden))
        if self.config.state_token == "expert":
            token = self.state_proj(state.to(dtype))[:, None, None].expand(-1, x.shape[1], -1, -1)
            tokens = torch.cat([token, tokens], dim=2)
        return tokens.flatten(1, 2)

    def embed_time(self, t: Float[Tensor, "*N"]) -> Float[Tensor, "*N W"]:
        """What flow times add to the tokens in front of the first activation."""
        width, linear = self.config.expert.width, self.action_time_mlp_in
        return F.linear(time_code(t, width).to(linear.weight.dtype), linear.weight[:, width:], linear.bias)

    def read_chunk(self, states: Float[Tensor, "B N S W"]) -> Float[Tensor, "B N T A"]:
        """Velocities from the expert's final states, per draw in the order of `embed_chunk`."""
        return self.action_out_proj(states[:, :, -self.config.horizon :])

    def read_progress(self, states: Float[Tensor, "B N S W"]) -> Float[Tensor, "B N"]:
        """Predicted progress at the chunk's end, raw: nothing bounds it."""
        return self.progress_out_proj(states[:, :, -self.config.horizon - 1])[..., 0]


POSITION_SCALE = 0.7


@torch.no_grad()
def initialize(network: DM0Network) -> None:
    """Unit-variance weights; what writes into a residual stream is scaled down with depth, as in GPT-2."""

    def scale(module: nn.Module, layers: int) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for child in module.children():
            scale(child, layers)
        residual = []
        if isinstance(module, SelfAttention):
            residual = [module.o_proj]
        elif isinstance(module, GatedMLP):
            residual = [module.down_proj]
        elif isinstance(module, VisionBlock):
            nn.init.normal_(module.attn.in_proj_weight, std=module.attn.in_proj_weight.shape[1] ** -0.5)
            residual = [module.attn.out_proj, module.mlp.c_proj]
        for linear in residual:
            linear.weight.mul_(1 / math.sqrt(2 * layers))

    config = network.config
    for child in network.children():
        scale(child, config.llm.layers if child is not network.mm_vision_tower else config.vision.layers)
    nn.init.normal_(network.llm.embed_tokens.weight, std=config.llm.width**-0.5)
    tower = network.vision_tower
    nn.init.normal_(tower.class_embedding, std=config.vision.width**-0.5)
    nn.init.zeros_(tower.positional_embedding)
    # As strong as the patches: a tower trained from nothing learns where things are much sooner.
    tower.positional_embedding[1:] = POSITION_SCALE * sinusoidal_grid(config.vision.grid, config.vision.width)

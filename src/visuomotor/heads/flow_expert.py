"""A flow-matching action expert that attends to the keys and values of a language model, layer by layer.

Dimensions: S tokens of all chunks, E width of the expert, P slots of the context; others as in heads.base.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.contract import Batch, Sampled, Term
from visuomotor.heads.base import ActionHead, Draws, Targets, action_term, step_weights
from visuomotor.nn.decoder import Decoder, DecoderConfig
from visuomotor.nn.flow import euler, euler_times, interpolate, sample_time, time_code, velocity
from visuomotor.nn.guidance import GUIDANCE, Guidance, guide
from visuomotor.nn.masks import Attention, Layout, See, compile_attention
from visuomotor.nn.random import integers, normal
from visuomotor.nn.rotary import Rotation
from visuomotor.nn.terms import by_row, nothing

__all__ = ["FlowExpert", "FlowExpertConfig", "StateToken", "chunk_layout"]

StateToken = Literal["none", "prefix", "expert", "block"]


@dataclass(frozen=True, kw_only=True)
class FlowExpertConfig:
    """An action expert and how it is trained.

    decoder          its tower: layers, heads and head width are the language model's, its widths its own. Flow time
                     modulates its norms where they are adaptive (pi0.5), else it is concatenated to the actions
    context_width    of the language model, for a state token in front of the text
    state_token      where proprioception enters, through one linear token: nowhere; between views and text of the
                     "prefix"; first in the "expert"'s chunk, which it sees; or in front of it as a "block" of its own,
                     which sees the prefix alone (pi0)
    progress_token   one more token in front of the chunk, which says how far the task is; from it the expert predicts
                     how far it will be at the chunk's end. progress_noise: standard deviation of what is added to it
                     in training
    noise_draws      flow samples per prefix and training step
    prefix_delay     up to so many actions at a chunk's beginning are given without noise (training-time RTC)
    mask_padded      the loss averages over valid entries only, else over all entries
    wide_time        the code of flow time is computed in float64 (pi0), else in float32 on CPUs (DM0)
    cast_tokens      tokens enter the tower in the type of its matrices (pi0), else in that of the linears around it
    """

    decoder: DecoderConfig
    context_width: int
    action_dim: int
    state_dim: int
    horizon: int
    state_token: StateToken = "none"
    progress_token: bool = False
    progress_noise: float = 0.05
    noise_draws: int = 1
    prefix_delay: int = 0
    mask_padded: bool = True
    denoise_steps: int = 10
    wide_time: bool = False
    cast_tokens: bool = False
    flow_weight: float = 1.0
    progress_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("noise_draws", "denoise_steps", "horizon", "action_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.decoder.width % 2:
            raise ValueError(f"Width {self.decoder.width} must be even: half sines, half cosines of flow time.")
        if not 0 <= self.prefix_delay < self.horizon:
            raise ValueError(f"prefix_delay is {self.prefix_delay}, but must be 0 to horizon - 1 ({self.horizon - 1}).")
        if self.prefix_delay and self.progress_token:
            raise ValueError("prefix_delay gives each action its own flow time; a progress token needs one for all.")
        if self.state_token != "none" and self.state_dim < 1:
            raise ValueError(f"state_token={self.state_token!r} needs state_dim of at least 1, not {self.state_dim}.")

    @property
    def chunk_tokens(self) -> int:
        """Tokens of one chunk in the expert's block."""
        return self.horizon + (self.state_token in ("expert", "block")) + self.progress_token


class FlowExpert(ActionHead):
    """Terms "flow" (squared velocity error) and, with a progress token, "progress"."""

    request = ContextRequest(keys=True)
    terms = ("flow",)
    unit_time = True
    chunk_guidance = GUIDANCE

    def __init__(self, config: FlowExpertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder.width
        self.expert = Decoder(config.decoder)
        self.action_in_proj = nn.Linear(config.action_dim, width)
        if self._adaptive:
            self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)
        else:
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        if config.state_token != "none":
            self.state_proj = nn.Linear(config.state_dim, config.context_width if self._in_prefix else width)
        if config.progress_token:
            self.progress_in_proj = nn.Linear(1, width)
            self.progress_out_proj = nn.Linear(width, 1)

    @property
    def _adaptive(self) -> bool:
        return self.config.decoder.norm == "adaptive"

    @property
    def _in_prefix(self) -> bool:
        return self.config.state_token == "prefix"

    def insert(self, batch: Batch) -> Float[Tensor, "B 1 W"] | None:
        if not self._in_prefix:
            return None
        return self.state_proj(batch.state.to(self.state_proj.weight.dtype))[:, None]

    def inserting(self) -> list[nn.Parameter]:
        return list(self.state_proj.parameters()) if self._in_prefix else []

    # Training ---------------------------------------------------------------------------------------------------

    def draw(
        self, targets: Targets, noise: Tensor | None, time: Tensor | None, generator: torch.Generator | None
    ) -> Draws:
        """Noise, flow times, noise on the progress, and how many actions are given."""
        config, actions, extra = self.config, targets.actions, {}
        draws = next((given.shape[1] for given in (noise, time) if given is not None), config.noise_draws)
        shape, device = (len(actions), draws), actions.device
        if noise is None:
            noise = normal((*shape, *actions.shape[1:]), generator, device)
        if time is None:
            time = sample_time(shape, generator, device)
        progress = targets.labels.get("progress")
        if config.progress_token and progress is not None:
            extra["progress"] = progress[:, :1] + config.progress_noise * normal(shape, generator, device)
        if config.prefix_delay:
            delay = integers(config.prefix_delay + 1, tuple(time.shape), generator, device)
            extra["fixed"] = torch.arange(config.horizon, device=device) < delay[..., None]
        return Draws(noise=noise, time=time, extra=extra)

    def losses(self, context: Context, targets: Targets, draws: Draws) -> dict[str, Term]:
        errors, states = self.errors(context, targets, draws)
        entries = targets.valid if self.config.mask_padded else torch.ones_like(targets.valid)
        if "fixed" in draws.extra:
            entries = entries[:, None] & ~draws.extra["fixed"][..., None]
        terms = {"flow": action_term(errors, entries, step_weights(targets), weight=self.config.flow_weight)}
        if "progress" in draws.extra:
            terms["progress"] = self._progress_term(states, targets.labels["progress"][:, 1])
        return terms

    def errors(
        self, context: Context, targets: Targets, draws: Draws
    ) -> tuple[Float[Tensor, "B K T A"], Float[Tensor, "B K S E"]]:
        """(squared errors of the velocity, the expert's states)."""
        actions, time = targets.actions, draws.time
        if "fixed" in draws.extra:
            time = time[..., None].masked_fill(draws.extra["fixed"], 0.0)
        x = interpolate(actions[:, None], draws.noise, time)
        timed = self._embed_time(time)
        tokens = self._embed(x, time, context.state, draws.extra.get("progress"), timed=timed)
        attention = self._attention(context, x.shape[1], tokens.shape[1])
        condition = self._condition(timed, time, tokens)
        states, _ = self.expert(tokens, attention, past=context.keys, condition=condition)
        states = states.unflatten(1, (x.shape[1], -1))
        return (self._read(states).float() - velocity(actions[:, None], draws.noise)).square(), states

    def _progress_term(self, states: Float[Tensor, "B K S E"], end: Float[Tensor, "B"]) -> Term:
        miss = (self._read_progress(states).float() - end[:, None]).square()
        count = torch.full_like(miss[:, 0], miss.shape[1])
        rows = by_row(miss.sum(1), count, torch.arange(len(miss), device=miss.device), len(miss))
        return Term(sum=miss.sum(), count=count.sum(), weight=self.config.progress_weight, rows=rows)

    def nothing(self, device: torch.device) -> dict[str, Term]:
        terms = {"flow": nothing(self.config.flow_weight, device)}
        if self.config.progress_token:  # the names of terms do not depend on the batch: loss_weights names them
            terms["progress"] = nothing(self.config.progress_weight, device)
        return terms

    # Inference --------------------------------------------------------------------------------------------------

    def room(self, samples: int) -> int:
        return samples * self.config.chunk_tokens

    def denoise(self, context: Context, x: Float[Tensor, "B N T A"], t: Tensor) -> Float[Tensor, "B N T A"]:
        """Velocities at x; the N samples of a row share its context, nothing stays in the cache.

        t: float[B, N], or [B, N, T], a flow time for each action.
        """
        return self._read(self._states(context, x, t, self._sample_attention(context, x.shape[1])))

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
        """Euler steps from noise.

        A context that knows its progress adds extras["progress"] [B, N]: the progress predicted for the chunk's end,
        the least of all steps, raw.
        """
        context.cache.reserve(self.room(noise.shape[1]))
        steps = self.config.denoise_steps if steps is None else steps
        attention = self._sample_attention(context, noise.shape[1]).ready(noise.dtype)
        # What all steps share is made once: flow times, rotary tables, the mask.
        timed = iter(self._embed_time(euler_times(steps, noise.device))[:, None, None])
        rotation = self.expert.rotation(attention)
        ends: list[Tensor] = []

        def field(x: Tensor, t: Tensor) -> Tensor:
            shared = next(timed) if t.ndim == 2 else None  # a time of its own for each action
            states = self._states(context, x, t, attention, timed=shared, rotation=rotation)
            if self._tells_progress(context):
                ends.append(self._read_progress(states).detach())
            return self._read(states)

        chosen, noise = (field, noise) if chunk_guidance is None else guide(field, noise, chunk_guidance)
        actions = euler(chosen, noise, steps)
        return Sampled(actions=actions, extras={"progress": torch.stack(ends).amin(0)} if ends else {})

    def _states(
        self,
        context: Context,
        x: Tensor,
        t: Tensor,
        attention: Attention,
        *,
        timed: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "B N S E"]:
        progress = context.told["progress"][:, :1].expand(-1, x.shape[1]) if self._tells_progress(context) else None
        timed = self._embed_time(t) if timed is None else timed
        tokens = self._embed(x, t, context.state, progress, timed=timed)
        condition = self._condition(timed, t, tokens)
        past, cache = (context.cache.filled(), None) if torch.is_grad_enabled() else (None, context.cache)
        if cache is not None:
            cache.reserve(tokens.shape[1])
        states, _ = self.expert(tokens, attention, past=past, cache=cache, rotation=rotation, condition=condition)
        return states.unflatten(1, (x.shape[1], -1))

    def _tells_progress(self, context: Context) -> bool:
        return self.config.progress_token and "progress" in context.told

    def _sample_attention(self, context: Context, samples: int) -> Attention:
        tokens = self.config.chunk_tokens - (self.config.progress_token and not self._tells_progress(context))
        return self._attention(context, samples, samples * tokens)

    # Shared -----------------------------------------------------------------------------------------------------

    def _attention(self, context: Context, draws: int, tokens: int) -> Attention:
        """Who sees whom among context and chunks; `tokens` of them are the chunks'."""
        device, separate = context.labels.device, self.config.state_token == "block"
        one = torch.arange(tokens // draws, device=device).clamp_max(int(separate))  # 0 of the state, if it is apart
        chunk = (torch.arange(draws, device=device)[:, None] * (1 + separate) + one).flatten() + 2
        chunk = chunk.expand(context.size, -1)
        return compile_attention(
            chunk_layout(draws, separate),
            torch.cat([context.labels, chunk], dim=1),
            torch.cat([context.valid, torch.ones_like(chunk, dtype=torch.bool)], dim=1),
            first_query=context.labels.shape[1],
        )

    def _embed(
        self,
        x: Float[Tensor, "B N T A"],
        t: Float[Tensor, "B N"] | Float[Tensor, "B N T"],
        state: Float[Tensor, "B S"],
        progress: Float[Tensor, "B N"] | None = None,
        *,
        timed: Float[Tensor, "*N E"] | None = None,
    ) -> Float[Tensor, "B S E"]:
        """Tokens of all draws one after another: [state, if it enters here | progress, if told | noisy actions].

        Flow time is told to the actions, one for all or one for each, and to the progress. `timed` is
        `_embed_time(t)`, where the caller has it already.

        Raises:
            ValueError: a time for each action, but one progress token, whose time would be undefined.
        """
        dtype = self.action_in_proj.weight.dtype
        width = self.config.decoder.width
        action = self.action_in_proj(x.to(dtype))
        if progress is not None:
            if t.ndim > 2:
                raise ValueError("A progress token needs one flow time for the whole chunk, not one per action.")
            action = torch.cat([self.progress_in_proj(progress.to(dtype)[..., None, None]), action], dim=2)
        tokens = action
        if not self._adaptive:
            # The first linear reads [action | time]; its time half is the same for the whole chunk.
            timed = self._embed_time(t) if timed is None else timed
            hidden = F.linear(action, self.action_time_mlp_in.weight[:, :width])
            hidden = hidden + (timed[..., None, :] if t.ndim == 2 else timed)
            tokens = self.action_time_mlp_out(F.silu(hidden))
        if self.config.state_token in ("expert", "block"):
            token = self.state_proj(state.to(dtype))[:, None, None].expand(-1, x.shape[1], -1, -1)
            tokens = torch.cat([token, tokens], dim=2)
        tokens = tokens.flatten(1, 2)
        return tokens.to(self.expert.matrix_dtype) if self.config.cast_tokens else tokens

    def _embed_time(self, t: Float[Tensor, "*N"]) -> Float[Tensor, "*N E"]:
        """What flow times add to the tokens in front of the first activation, or the condition of adaptive norms."""
        width, linear = self.config.decoder.width, self.time_mlp_in if self._adaptive else self.action_time_mlp_in
        code = time_code(t, width, wide=self.config.wide_time).to(linear.weight.dtype)
        if self._adaptive:
            return F.silu(self.time_mlp_out(F.silu(linear(code))))
        return F.linear(code, linear.weight[:, width:], linear.bias)

    def _condition(self, timed: Tensor, t: Tensor, tokens: Float[Tensor, "B S E"]) -> Tensor | None:
        """The condition of adaptive norms: [B, E] where all tokens of a row share one, else for each token."""
        if not self._adaptive:
            return None
        if t.ndim == 2 and (t.shape[1] == 1 or timed.shape[1] == 1):
            return timed[:, 0].expand(len(tokens), -1)
        each = timed[:, :, None] if t.ndim == 2 else timed
        return each.expand(-1, -1, tokens.shape[1] // t.shape[1], -1).flatten(1, 2)

    def _read(self, states: Float[Tensor, "B N S E"]) -> Float[Tensor, "B N T A"]:
        """Velocities from the expert's final states, per draw in the order of `_embed`."""
        return self.action_out_proj(states[:, :, -self.config.horizon :].to(self.action_out_proj.weight.dtype))

    def _read_progress(self, states: Float[Tensor, "B N S E"]) -> Float[Tensor, "B N"]:
        """Predicted progress at the chunk's end, raw: nothing bounds it."""
        return self.progress_out_proj(states[:, :, -self.config.horizon - 1])[..., 0]

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """expert, and action_io: the linears around it."""
        expert = list(self.expert.parameters())
        known = {id(parameter) for parameter in expert}
        return {"expert": expert, "action_io": [p for p in self.parameters() if id(p) not in known]}

    def units(self) -> list[nn.Module]:
        return list(self.expert.layers)


@lru_cache(maxsize=64)
def chunk_layout(draws: int, separate_state: bool = False) -> Layout:
    """Causal prefix; each chunk is bidirectional, sees the prefix but no hidden slot, and no other chunk.

    separate_state   in front of each chunk stands a state, which sees the prefix and itself alone.
    """
    sees = {(q, k): See.EARLIER for q in ("prefix", "hidden") for k in ("prefix", "hidden")}
    blocks = ["prefix", "hidden"]
    for i in range(draws):
        chunk, state = f"chunk{i}", f"state{i}"
        if separate_state:
            blocks.append(state)
            sees[state, "prefix"] = sees[state, state] = sees[chunk, state] = See.ALL
        blocks.append(chunk)
        sees[chunk, "prefix"] = sees[chunk, chunk] = See.ALL
    return Layout(blocks=tuple(blocks), sees=sees)

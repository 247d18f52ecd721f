"""DM0: losses, prefix, denoising and sampling. Dimensions: P prefix slots, K draws, N samples; others as contract."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.contract import Batch, Losses, Sampled, Term, TextKind
from visuomotor.data.action_tokens import BINS
from visuomotor.models.base import Cost, Model
from visuomotor.models.dm0.config import DM0Config
from visuomotor.models.dm0.cost import sample_cost
from visuomotor.models.dm0.network import DM0Network
from visuomotor.nn.decoder import KeyValue, KVCache
from visuomotor.nn.flow import euler, interpolate, sample_time, velocity
from visuomotor.nn.masks import Attention, Layout, See, causal_attention, compile_attention, valid_first
from visuomotor.nn.vision import prepare_images

__all__ = ["DM0", "Prefix", "layout"]


def layout(draws: int) -> Layout:
    """Causal prefix; each chunk is bidirectional, sees the prefix but no discrete action token, and no other chunk."""
    chunks = tuple(f"chunk{i}" for i in range(draws))
    sees = {(q, k): See.EARLIER for q in ("prefix", "action_tokens") for k in ("prefix", "action_tokens")}
    for chunk in chunks:
        sees[chunk, "prefix"] = sees[chunk, chunk] = See.ALL
    return Layout(blocks=("prefix", "action_tokens", *chunks), sees=sees)


@lru_cache(maxsize=64)
def turn_layout(turns: int) -> Layout:
    """Block 0 holds the images, block k the k-th turn, which sees block 0 and itself."""
    blocks = ("images", *(f"turn{i + 1}" for i in range(turns)))
    sees = {(block, key): See.EARLIER for block in blocks for key in ("images", block)}
    return Layout(blocks=blocks, sees=sees)


@dataclass(kw_only=True)
class Prefix:
    """An encoded observation: what every denoising step reads.

    `labels` int64[B, P] (index into `layout().blocks`) and `valid` bool[B, P] describe the filled slots of `cache`.
    `last` [B, W] is the state of each row's last valid token, None when no text is to be generated.
    """

    cache: KVCache
    labels: Int64[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]
    state: Float[Tensor, "B S"]
    last: Float[Tensor, "B W"] | None = None


@dataclass(frozen=True, kw_only=True)
class _Text:
    """The text of a batch with its padding moved to the end."""

    ids: Tensor
    valid: Tensor
    kind: Tensor
    loss: Tensor
    turn: Tensor | None

    @classmethod
    def of(cls, batch: Batch) -> "_Text":
        order = valid_first(batch.text_valid)
        parts = (batch.text_ids, batch.text_valid, batch.text_kind, batch.text_loss)
        ids, valid, kind, loss = (part.gather(1, order) for part in parts)
        turn = None if batch.text_turn is None else batch.text_turn.gather(1, order)
        return cls(ids=ids, valid=valid, kind=kind, loss=loss & valid, turn=turn)


class DM0(Model):
    """The model of specification sections 1 and 8; parameter names are those of the published checkpoints."""

    def __init__(self, config: DM0Config) -> None:
        super().__init__()
        self.config: DM0Config = config
        self.model = DM0Network(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
            nn.init.normal_(self.lm_head.weight, std=config.width**-0.5)

    # Training ---------------------------------------------------------------------------------------------------

    def loss(
        self,
        batch: Batch,
        *,
        noise: Tensor | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """Terms "text", "action_tokens" (cross-entropy per supervised token) and "flow" (squared velocity error).

        Samples without supervised text or without a valid action add nothing to the respective term.
        """
        text = _Text.of(batch)
        x = self._embed(batch, text)
        labels, valid = self._slots(text, x.shape[1])
        rows, slots = text.loss.nonzero(as_tuple=True)
        attention = self._prefix_attention(text, labels, valid)
        states, lent = self.model.llm(x, attention, keys_only=len(rows) == 0)
        terms = self._text_terms(states, x.shape[1] - text.ids.shape[1], rows, slots, text)
        terms["flow"] = self._flow_term(batch, lent, labels, valid, noise, time, generator)
        return Losses(terms=terms)

    def _text_terms(self, states: Tensor, start: int, rows: Tensor, slots: Tensor, text: _Text) -> dict[str, Term]:
        """Next-token cross-entropy. `start` is the slot of the first text token; only supervised tokens are read."""
        weights = {"text": self.config.text_weight, "action_tokens": self.config.action_tokens_weight}
        if not len(rows):
            return {name: _nothing(weight, states.device) for name, weight in weights.items()}
        predictors = states[rows, start + slots - 1]
        entropy = F.cross_entropy(self._logits(predictors).float(), text.ids[rows, slots], reduction="none")
        discrete = text.kind[rows, slots] == TextKind.ACTION
        chosen = {"text": ~discrete, "action_tokens": discrete}
        return {
            name: Term(
                sum=(entropy * chosen[name]).sum(),
                count=chosen[name].sum(),
                weight=weight,
                rows=_by_row(entropy * chosen[name], chosen[name], rows, len(text.ids)),
            )
            for name, weight in weights.items()
        }

    def _flow_term(
        self,
        batch: Batch,
        lent: list[KeyValue],
        labels: Tensor,
        valid: Tensor,
        noise: Tensor | None,
        time: Tensor | None,
        generator: torch.Generator | None,
    ) -> Term:
        weight, device = self.config.flow_weight, valid.device
        if batch.actions is None:
            return _nothing(weight, device)
        actions = batch.actions
        entries = torch.ones_like(actions, dtype=torch.bool) if batch.action_valid is None else batch.action_valid
        draws = next((given.shape[1] for given in (noise, time) if given is not None), self.config.noise_draws)
        if noise is None:
            noise = _normal((actions.shape[0], draws, *actions.shape[1:]), generator, device)
        if time is None:
            source = generator.device if generator is not None else device
            time = sample_time((actions.shape[0], draws), generator, source).to(device)
        importance = torch.ones_like(actions[..., 0])
        for values in batch.weights.values():
            importance = importance * values

        lent = self._decouple(lent, batch.source)
        keep = entries.flatten(1).any(1)
        state = batch.state
        rows = torch.arange(len(keep), device=device)
        if not bool(keep.all()):  # rows without actions cost the expert nothing
            rows = keep.nonzero()[:, 0]
            if not len(rows):
                return _nothing(weight, device)
            lent = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in lent]
            tensors = (actions, entries, noise, time, importance, state, labels, valid)
            actions, entries, noise, time, importance, state, labels, valid = (t[rows] for t in tensors)
        x = interpolate(actions[:, None], noise, time)
        attention = self._chunk_attention(labels, valid, draws)
        states, _ = self.model.expert(self.model.embed_chunk(x, time, state), attention, past=lent)
        error = (self.model.read_chunk(states).float() - velocity(actions[:, None], noise)).square()
        counted = entries if self.config.mask_padded else torch.ones_like(entries)
        weighted = error * (counted * importance[..., None])[:, None]
        by_row = _by_row(weighted.flatten(1).sum(1), draws * counted.flatten(1).sum(1), rows, len(keep))
        return Term(sum=weighted.sum(), count=draws * counted.sum(), weight=weight, rows=by_row)

    def _decouple(self, lent: list[KeyValue], source: Tensor) -> list[KeyValue]:
        """Stop the gradient at the edge from the VLM to the expert; the values are unchanged."""
        if not self.config.gradient_decoupling:
            return lent
        if self.config.decoupled_sources is None:
            return [(k.detach(), v.detach()) for k, v in lent]
        chosen = torch.zeros_like(source, dtype=torch.bool)
        for index in self.config.decoupled_sources:
            chosen = chosen | (source == index)
        chosen = chosen[:, None, None, None]
        return [(torch.where(chosen, k.detach(), k), torch.where(chosen, v.detach(), v)) for k, v in lent]

    # Inference --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, batch: Batch, *, room: int = 0, text: bool = False) -> Prefix:
        """Run the VLM once. `room` reserves cache slots behind the prefix; `text` prepares for generation."""
        parts = _Text.of(batch)
        x = self._embed(batch, parts)
        labels, valid = self._slots(parts, x.shape[1])
        cache = KVCache(self.config.llm, x.shape[0], x.shape[1] + room, like=x)
        states, _ = self.model.llm(x, self._prefix_attention(parts, labels, valid), cache=cache, keys_only=not text)
        cache.length = x.shape[1]
        last = states[torch.arange(x.shape[0], device=x.device), valid.sum(1) - 1] if text else None
        return Prefix(cache=cache, labels=labels, valid=valid, state=batch.state, last=last)

    @torch.no_grad()
    def generate(self, prefix: Prefix, length: int, stop_id: int | None = None) -> Int64[Tensor, "B G"]:
        """Continue the prefix's text greedily, in its cache; each row stops after its own `stop_id` and is padded.

        Generated tokens, the stop included, become visible to the action chunk; action tokens do not.
        """
        if prefix.last is None:
            raise ValueError("This prefix was encoded without text states; call encode(batch, text=True).")
        stop = self.config.newline_id if stop_id is None else stop_id
        running = torch.ones_like(prefix.valid[:, 0])
        prefix.cache.reserve(length)
        tokens: list[Tensor] = []
        state = prefix.last
        for _ in range(length):
            token = (
                self._logits(state).argmax(-1).where(running, torch.full_like(prefix.labels[:, 0], self.config.pad_id))
            )
            tokens.append(token)
            prefix.labels = torch.cat([prefix.labels, self._is_action(token)[:, None].long()], dim=1)
            prefix.valid = torch.cat([prefix.valid, running[:, None]], dim=1)
            attention = compile_attention(layout(0), prefix.labels, prefix.valid, first_query=prefix.cache.length)
            states, _ = self.model.llm(self.model.llm.embed_tokens(token)[:, None], attention, cache=prefix.cache)
            prefix.cache.length += 1
            state = states[:, 0]
            running = running & (token != stop)
            if not bool(running.any()):
                break
        ids = torch.stack(tokens, dim=1)
        return F.pad(ids, (0, length - ids.shape[1]), value=self.config.pad_id)

    def _is_action(self, token: Tensor) -> Tensor:
        start = self.config.action_start_id
        return torch.zeros_like(token, dtype=torch.bool) if start is None else (token >= start) & (token < start + BINS)

    def denoise(self, prefix: Prefix, x: Float[Tensor, "B N T A"], t: Float[Tensor, "B N"]) -> Tensor:
        """Velocities at x, differentiable in x; the N samples of a row share its prefix, nothing stays in the cache."""
        return self._velocity(prefix, x, t, self._chunk_attention(prefix.labels, prefix.valid, x.shape[1]))

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        *,
        prefix: Prefix | None = None,
        num_samples: int = 1,
        noise: Float[Tensor, "B N T A"] | None = None,
        steps: int | None = None,
        generate: int = 0,
        stop_id: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """Action chunks by Euler steps from noise. `generate` > 0 first writes up to that many text tokens."""
        if noise is None:
            shape = (batch.size, num_samples, self.config.horizon, self.config.action_dim)
            noise = _normal(shape, generator, batch.text_ids.device)
        room = noise.shape[1] * self.config.chunk_tokens
        if prefix is None:
            prefix = self.encode(batch, room=room + generate, text=generate > 0)
        ids = self.generate(prefix, generate, stop_id) if generate else None
        prefix.cache.reserve(room)
        attention = self._chunk_attention(prefix.labels, prefix.valid, noise.shape[1])
        actions = euler(lambda x, t: self._velocity(prefix, x, t, attention), noise, steps or self.config.denoise_steps)
        return Sampled(actions=actions, text_ids=ids)

    def _velocity(self, prefix: Prefix, x: Tensor, t: Tensor, attention: Attention) -> Tensor:
        tokens = self.model.embed_chunk(x, t, prefix.state)
        if torch.is_grad_enabled():
            states, _ = self.model.expert(tokens, attention, past=prefix.cache.filled())
        else:
            prefix.cache.reserve(tokens.shape[1])
            states, _ = self.model.expert(tokens, attention, cache=prefix.cache)
        return self.model.read_chunk(states)

    # Shared -----------------------------------------------------------------------------------------------------

    def _embed(self, batch: Batch, text: _Text) -> Tensor:
        size, pad = self.config.image_size, self.config.image_pad
        images = [prepare_images(image, size, pad) for image in batch.images.values()]
        return self.model.embed_prefix(images, batch.state, text.ids)

    def _slots(self, text: _Text, length: int) -> tuple[Tensor, Tensor]:
        """Labels and validity of all prefix slots; only text can be padding, absent views have no slots."""
        before = length - text.ids.shape[1]
        labels = F.pad((text.kind == TextKind.ACTION).long(), (before, 0))
        return labels, F.pad(text.valid, (before, 0), value=True)

    def _prefix_attention(self, text: _Text, labels: Tensor, valid: Tensor) -> Attention:
        """Causal; turns see the images and themselves. The token convolution mixes neither with the other."""
        before = labels.shape[1] - text.ids.shape[1]
        if text.turn is None:
            groups = F.pad(torch.ones_like(text.ids), (before, 0))
            return replace(causal_attention(valid), groups=groups)
        turns = F.pad(text.turn, (before, 0))
        attention = compile_attention(turn_layout(int(text.turn.max())), turns, valid)
        return replace(attention, groups=turns)

    def _chunk_attention(self, labels: Tensor, valid: Tensor, draws: int) -> Attention:
        chunk = torch.arange(draws, device=labels.device).repeat_interleave(self.config.chunk_tokens) + 2
        chunk = chunk.expand(labels.shape[0], -1)
        return compile_attention(
            layout(draws),
            torch.cat([labels, chunk], dim=1),
            torch.cat([valid, torch.ones_like(chunk, dtype=torch.bool)], dim=1),
            first_query=labels.shape[1],
        )

    def _logits(self, states: Tensor) -> Tensor:
        weight = self.model.llm.embed_tokens.weight if self.config.tie_embeddings else self.lm_head.weight
        return F.linear(states, weight)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision (with its convolutions), projector, llm, embed, expert, action_io, and lm_head when not tied."""
        network = self.model
        embed = list(network.llm.embed_tokens.parameters())
        io = [network.action_in_proj, network.action_time_mlp_in, network.action_time_mlp_out, network.action_out_proj]
        if self.config.state_token != "none":
            io.append(network.state_proj)
        found = {
            "vision": list(network.mm_vision_tower.parameters()),
            "projector": list(network.mm_projector.parameters()),
            "llm": [p for p in network.llm.parameters() if p is not embed[0]],
            "embed": embed,
            "expert": list(network.action_expert.parameters()),
            "action_io": [p for linear in io for p in linear.parameters()],
        }
        if not self.config.tie_embeddings:
            found["lm_head"] = list(self.lm_head.parameters())
        return found

    def cost(self, batch_size: int = 1, text_length: int = 100, steps: int | None = None) -> Mapping[str, Cost]:
        """Cost of one `sample` of one chunk per observation, by part, all cameras present."""
        return sample_cost(self.config, batch_size, text_length, steps or self.config.denoise_steps)


def _normal(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    source = generator.device if generator is not None else device
    return torch.randn(shape, generator=generator, device=source).to(device)


@torch.no_grad()
def _by_row(values: Tensor, counts: Tensor, rows: Tensor, size: int) -> Tensor:
    """float[2, size]: values and counts added up by the sample that each belongs to."""
    both = torch.stack([values, counts.to(values.dtype)])
    return both.new_zeros(2, size).index_add_(1, rows, both)


def _nothing(weight: float, device: torch.device) -> Term:
    """A term that leaves no gradient: on gradients of zero, momentum and weight decay would go on moving weights."""
    return Term(sum=torch.zeros((), device=device), count=torch.zeros((), device=device), weight=weight)

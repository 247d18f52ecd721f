"""DM0: losses, prefix, denoising and sampling. Dimensions: P prefix slots, K draws, N samples; others as contract."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.contract import Batch, Losses, Sampled, Term, TextKind
from visuomotor.models.base import Model
from visuomotor.models.dm0.config import DM0Config
from visuomotor.models.dm0.network import DM0Network
from visuomotor.models.dm0.prefix import Prefix, PrefixText, layout, turn_layout
from visuomotor.models.dm0.writing import Writer
from visuomotor.models.report import TensorReport
from visuomotor.models.terms import by_row, nothing
from visuomotor.nn.decoder import KeyValue, KVCache
from visuomotor.nn.flow import euler, euler_times, interpolate, sample_time, velocity
from visuomotor.nn.guidance import GUIDANCE, Guidance, guide
from visuomotor.nn.masks import Attention, causal_attention, compile_attention
from visuomotor.nn.random import integers, normal
from visuomotor.nn.rotary import Rotation
from visuomotor.nn.vision import prepare_images
from visuomotor.text.grammar import Line

__all__ = ["DM0", "Prefix", "layout"]


class DM0(Model):
    """The model of specification sections 1 and 8; parameter names are those of the published checkpoints."""

    chunk_guidance = GUIDANCE

    def __init__(self, config: DM0Config) -> None:
        super().__init__()
        self.config: DM0Config = config
        self.model = DM0Network(config)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.llm.width, config.vocab_size, bias=False)
            nn.init.normal_(self.lm_head.weight, std=config.llm.width**-0.5)

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

        With `progress_token` and labels "progress" float[B, 2] (now, at the chunk's end) also "progress", the squared
        error of the predicted progress at the chunk's end.
        The batch's weights (ProcessorConfig.weights, e.g. "emphasis") multiply the squared velocity error.
        Samples without supervised text or without a valid action add nothing to the respective term. In training, a
        prefix that stands still is run without gradients, and its text, which teaches nobody, is not predicted.
        """
        text = PrefixText.of(batch)
        still = self.training and not self._prefix_learns()
        if still:
            text = replace(text, loss=torch.zeros_like(text.loss))
        with torch.no_grad() if still else nullcontext():
            x = self._embed(batch, text)
            labels, valid = self._slots(text, x.shape[1])
            rows, slots = text.loss.nonzero(as_tuple=True)
            attention = self._prefix_attention(text, labels, valid)
            states, lent = self.model.llm(x, attention, keys_only=len(rows) == 0)
        terms = self._text_terms(states, x.shape[1] - text.ids.shape[1], rows, slots, text)
        terms |= self._expert_terms(batch, lent, labels, valid, noise, time, generator)
        return Losses(terms=terms)

    def _prefix_learns(self) -> bool:
        """Whether anything trains that keys and values of the prefix, or its text, are computed with."""
        network = self.model
        modules: list[nn.Module] = [network.mm_vision_tower, network.mm_projector, network.llm]
        if self.config.state_token == "prefix":
            modules.append(network.state_proj)
        if not self.config.tie_embeddings:
            modules.append(self.lm_head)
        return any(parameter.requires_grad for module in modules for parameter in module.parameters())

    def _text_terms(self, states: Tensor, start: int, rows: Tensor, slots: Tensor, text: PrefixText) -> dict[str, Term]:
        """Next-token cross-entropy. `start` is the slot of the first text token; only supervised tokens are read."""
        weights = {"text": self.config.text_weight, "action_tokens": self.config.action_tokens_weight}
        if not len(rows):
            return {name: nothing(weight, states.device) for name, weight in weights.items()}
        predictors = states[rows, start + slots - 1]
        entropy = F.cross_entropy(self._logits(predictors).float(), text.ids[rows, slots], reduction="none")
        discrete = text.kind[rows, slots] == int(TextKind.ACTION)
        chosen = {"text": ~discrete, "action_tokens": discrete}
        return {
            name: Term(
                sum=(entropy * chosen[name]).sum(),
                count=chosen[name].sum(),
                weight=weight,
                rows=by_row(entropy * chosen[name], chosen[name], rows, len(text.ids)),
            )
            for name, weight in weights.items()
        }

    def _expert_terms(
        self,
        batch: Batch,
        lent: list[KeyValue],
        labels: Tensor,
        valid: Tensor,
        noise: Tensor | None,
        time: Tensor | None,
        generator: torch.Generator | None,
    ) -> dict[str, Term]:
        """ "flow", and "progress" where the batch has labels for it."""
        config, device = self.config, valid.device
        empty = {"flow": nothing(config.flow_weight, device)}
        if batch.actions is None:
            return empty
        actions = batch.actions
        entries = torch.ones_like(actions, dtype=torch.bool) if batch.action_valid is None else batch.action_valid
        draws = next((given.shape[1] for given in (noise, time) if given is not None), config.noise_draws)
        if noise is None:
            noise = normal((actions.shape[0], draws, *actions.shape[1:]), generator, device)
        if time is None:
            time = sample_time((actions.shape[0], draws), generator, device)
        importance = torch.ones_like(actions[..., 0])
        for values in batch.weights.values():
            importance = importance * values
        told, target = self._progress_labels(batch, draws, generator)
        given = self._given_actions(time, generator)

        lent = self._decouple(lent, batch.source)
        keep = entries.flatten(1).any(1)
        state = batch.state
        rows = torch.arange(len(keep), device=device)
        if not bool(keep.all()):  # rows without actions cost the expert nothing
            rows = keep.nonzero()[:, 0]
            if not len(rows):
                return empty
            lent = [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in lent]
            tensors = (actions, entries, noise, time, importance, state, labels, valid)
            actions, entries, noise, time, importance, state, labels, valid = (t[rows] for t in tensors)
            told, target, given = (None if t is None else t[rows] for t in (told, target, given))
        if given is not None:
            time = time[..., None].masked_fill(given, 0.0)
        x = interpolate(actions[:, None], noise, time)
        tokens = self.model.embed_chunk(x, time, state, told)
        states, _ = self.model.expert(tokens, self._chunk_attention(labels, valid, draws, tokens.shape[1]), past=lent)
        states = states.unflatten(1, (draws, -1))
        error = (self.model.read_chunk(states).float() - velocity(actions[:, None], noise)).square()
        counted = (entries if config.mask_padded else torch.ones_like(entries))[:, None].expand_as(error)
        if given is not None:
            counted = counted & ~given[..., None]
        weighted = error * (counted * importance[:, None, :, None])
        tally = by_row(weighted.flatten(1).sum(1), counted.flatten(1).sum(1), rows, len(keep))
        total, count = weighted.sum(), counted.sum()
        terms = {"flow": Term(sum=total, count=count, weight=config.flow_weight, rows=tally)}
        if target is not None:
            miss = (self.model.read_progress(states).float() - target[:, None]).square()
            count = torch.full_like(miss[:, 0], draws)
            tally = by_row(miss.sum(1), count, rows, len(keep))
            terms["progress"] = Term(sum=miss.sum(), count=count.sum(), weight=config.progress_weight, rows=tally)
        return terms

    def _given_actions(self, time: Tensor, generator: torch.Generator | None) -> Bool[Tensor, "B K T"] | None:
        """Which actions of each draw are given (training-time real-time chunking), None where none ever is."""
        if not self.config.prefix_delay:
            return None
        delay = integers(self.config.prefix_delay + 1, tuple(time.shape), generator, time.device)
        return torch.arange(self.config.horizon, device=time.device) < delay[..., None]

    def _progress_labels(
        self, batch: Batch, draws: int, generator: torch.Generator | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """(progress that the expert is told [B, K], with noise; progress at the chunk's end [B]), or (None, None)."""
        labels = batch.labels.get("progress")
        if not self.config.progress_token or labels is None:
            return None, None
        noise = self.config.progress_noise * normal((labels.shape[0], draws), generator, labels.device)
        return labels[:, :1] + noise, labels[:, 1]

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
        parts = PrefixText.of(batch)
        x = self._embed(batch, parts)
        labels, valid = self._slots(parts, x.shape[1])
        cache = KVCache(self.config.llm, x.shape[0], x.shape[1] + room, like=x)
        states, _ = self.model.llm(x, self._prefix_attention(parts, labels, valid), cache=cache, keys_only=not text)
        cache.length = x.shape[1]
        last = states[torch.arange(x.shape[0], device=x.device), valid.sum(1) - 1] if text else None
        told = batch.labels.get("progress") if self.config.progress_token else None
        prefix = Prefix(cache=cache, labels=labels, valid=valid, state=batch.state, last=last)
        if told is not None:
            prefix.progress = told[:, 0]
        if parts.turn is not None:
            prefix.turns = F.pad(parts.turn, (x.shape[1] - parts.turn.shape[1], 0))
            prefix.turn_count = int(parts.turn.max())
        return prefix

    @torch.no_grad()
    def generate(self, prefix: Prefix, length: int, stop_id: int | None = None) -> Int64[Tensor, "B G"]:
        """Continue the prefix's text greedily, in its cache; each row stops after its own `stop_id` and is padded.

        Generated tokens, the stop included, become visible to the action chunk; action tokens do not.
        """
        line = Line(header=prefix.labels[0, :0], length=length)
        ids, _ = self._writer(prefix).go_on(line, self.config.newline_id if stop_id is None else stop_id)
        return F.pad(ids, (0, length - ids.shape[1]), value=self.config.pad_id)

    @torch.no_grad()
    def write(
        self, prefix: Prefix, lines: Sequence[Line], deadline: float | None = None
    ) -> tuple[tuple[Int64[Tensor, "B G"], ...], Bool[Tensor, "B N"]]:
        """Write `lines` one after the other into the prefix's cache: forced header, generated text, newline.

        Returns each line's ids without its header, padded where a row stopped earlier, and which were finished before
        `deadline` (of time.perf_counter). The chunk does not see the others. A line that reaches its length without a
        newline is ended by one if another line follows.
        """
        return self._writer(prefix).write(lines, deadline)

    def _writer(self, prefix: Prefix) -> Writer:
        return Writer(self.config, self.model.llm, self._logits, prefix)

    def denoise(self, prefix: Prefix, x: Float[Tensor, "B N T A"], t: Tensor) -> Tensor:
        """Velocities at x, differentiable in x; the N samples of a row share its prefix, nothing stays in the cache.

        t: float[B, N], or [B, N, T], a flow time for each action.
        """
        return self.model.read_chunk(self._expert_states(prefix, x, t, self._sample_attention(prefix, x.shape[1])))

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
        lines: Sequence[Line] = (),
        deadline: float | None = None,
        flow: bool = True,
        chunk_guidance: Guidance | None = None,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """Action chunks by Euler steps from noise, which read all that was written before them.

        generate: > 0 first writes up to that many text tokens; lines: or these lines of text, until `deadline`.
        flow: False leaves actions at noise, for a policy that reads the action tokens it wrote.
        chunk_guidance: ties the chunks to actions that were planned before (real-time chunking).
        A prefix that knows its progress adds extras["progress"] [B, N]: the progress predicted for the chunk's end,
        the least of all steps, raw.
        """
        if noise is None:
            noise = self.draw_noise(batch, num_samples, generator)
        room = noise.shape[1] * self.config.chunk_tokens
        if prefix is None:
            writing = generate + sum(len(line.header) + line.length + 1 for line in lines)
            begun = generate > 0 or (len(lines) > 0 and lines[0].given)
            prefix = self.encode(batch, room=room + writing, text=begun)
        ids = self.generate(prefix, generate, stop_id) if generate else None
        written, finished = self.write(prefix, lines, deadline) if lines else ((), None)
        sampled = self.denoise_all(prefix, noise, steps, chunk_guidance) if flow else Sampled(actions=noise)
        return replace(sampled, text_ids=ids, lines=written, finished=finished)

    @torch.no_grad()
    def denoise_all(
        self,
        prefix: Prefix,
        noise: Float[Tensor, "B N T A"],
        steps: int | None = None,
        guidance: Guidance | None = None,
    ) -> Sampled:
        """All denoising steps from `noise`, which `sample` makes after the prefix and its text."""
        prefix.cache.reserve(noise.shape[1] * self.config.chunk_tokens)
        expert, steps = self.model.expert, self.config.denoise_steps if steps is None else steps
        attention = self._sample_attention(prefix, noise.shape[1]).ready(noise.dtype)
        # What all steps share is made once: flow times, rotary tables, the mask.
        timed = iter(self.model.embed_time(euler_times(steps, noise.device))[:, None, None])
        rotation = expert.rotation(attention)
        ends: list[Tensor] = []

        def field(x: Tensor, t: Tensor) -> Tensor:
            shared = next(timed) if t.ndim == 2 else None  # a time of its own for each action
            states = self._expert_states(prefix, x, t, attention, timed=shared, rotation=rotation)
            if prefix.progress is not None:
                ends.append(self.model.read_progress(states).detach())
            return self.model.read_chunk(states)

        chosen, noise = (field, noise) if guidance is None else guide(field, noise, guidance)
        actions = euler(chosen, noise, steps)
        extras = {"progress": torch.stack(ends).amin(0)} if ends else {}
        return Sampled(actions=actions, extras=extras)

    def _expert_states(
        self,
        prefix: Prefix,
        x: Tensor,
        t: Tensor,
        attention: Attention,
        *,
        timed: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Float[Tensor, "B N S W"]:
        told = None if prefix.progress is None else prefix.progress[:, None].expand(-1, x.shape[1])
        tokens = self.model.embed_chunk(x, t, prefix.state, told, timed=timed)
        if torch.is_grad_enabled():
            states, _ = self.model.expert(tokens, attention, past=prefix.cache.filled(), rotation=rotation)
        else:
            prefix.cache.reserve(tokens.shape[1])
            states, _ = self.model.expert(tokens, attention, cache=prefix.cache, rotation=rotation)
        return states.unflatten(1, (x.shape[1], -1))

    def _sample_attention(self, prefix: Prefix, samples: int) -> Attention:
        tokens = self.config.chunk_tokens - (self.config.progress_token and prefix.progress is None)
        return self._chunk_attention(prefix.labels, prefix.valid, samples, samples * tokens)

    # Shared -----------------------------------------------------------------------------------------------------

    def _embed(self, batch: Batch, text: PrefixText) -> Tensor:
        size, pad = self.config.vision.image_size, self.config.image_pad
        images = [prepare_images(image, size, pad) for image in batch.images.values()]
        return self.model.embed_prefix(images, batch.state, text.ids)

    def _slots(self, text: PrefixText, length: int) -> tuple[Tensor, Tensor]:
        """Labels and validity of all prefix slots; only text can be padding, absent views have no slots."""
        before = length - text.ids.shape[1]
        labels = F.pad((text.kind == int(TextKind.ACTION)).long(), (before, 0))
        return labels, F.pad(text.valid, (before, 0), value=True)

    def _prefix_attention(self, text: PrefixText, labels: Tensor, valid: Tensor) -> Attention:
        """Causal; turns see the images and themselves. The token convolution mixes neither with the other."""
        before = labels.shape[1] - text.ids.shape[1]
        if text.turn is None:
            groups = F.pad(torch.ones_like(text.ids), (before, 0))
            return replace(causal_attention(valid), groups=groups)
        turns = F.pad(text.turn, (before, 0))
        attention = compile_attention(turn_layout(int(text.turn.max())), turns, valid)
        return replace(attention, groups=F.pad(text.turn + 1, (before, 0)))

    def _chunk_attention(self, labels: Tensor, valid: Tensor, draws: int, tokens: int) -> Attention:
        """Who sees whom among prefix and chunks; `tokens` of them are the chunks'."""
        chunk = torch.arange(draws, device=labels.device).repeat_interleave(tokens // draws) + 2
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

    def load_backbones(self, sources: Mapping[str, str], *, generator: torch.Generator | None = None) -> TensorReport:
        """See `backbones.load_backbones`."""
        from visuomotor.models.dm0 import backbones

        return backbones.load_backbones(self, sources, generator=generator)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision (with its convolutions), projector, llm, embed, expert, action_io, and lm_head when not tied."""
        network = self.model
        embed = list(network.llm.embed_tokens.parameters())
        io = [network.action_in_proj, network.action_time_mlp_in, network.action_time_mlp_out, network.action_out_proj]
        if self.config.state_token != "none":
            io.append(network.state_proj)
        if self.config.progress_token:
            io += [network.progress_in_proj, network.progress_out_proj]
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

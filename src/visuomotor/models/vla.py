"""A vision-language-action model of one backbone and one action head: losses, gradient routing and sampling.

Dimensions: K draws, N samples; others as in contract.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from visuomotor.backbones.base import Backbone, Context, refuse_writing
from visuomotor.contract import Batch, Losses, Sampled, Term
from visuomotor.heads.base import ActionHead, Targets
from visuomotor.models.base import Model
from visuomotor.nn.guidance import Guidance
from visuomotor.text.grammar import Line

__all__ = ["VLA", "Routing"]


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What gradients pass from the head to the backbone, and how much texts count.

    decoupled    no gradient passes from the head: stop-gradient on all that it reads of the backbone
    sources      indices into the mixture of which that is true; None: of all
    weights      of the backbone's loss terms by name
    """

    decoupled: bool = False
    sources: tuple[int, ...] | None = None
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sources is not None and not self.decoupled:
            raise ValueError("decoupled_sources names sources, but gradient_decoupling is off; switch it on.")


class VLA(Model):
    """What the backbone reads, the head turns into actions; `routing` says what passes back between them."""

    backbone: Backbone
    head: ActionHead

    def __init__(self, config: Any, backbone: Backbone, head: ActionHead, routing: Routing) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.head, self.routing = backbone, head, routing
        if routing.decoupled and not backbone.writes:
            raise ValueError(
                "gradient_decoupling is on, but the backbone predicts no text, so nothing would train it; switch "
                "gradient_decoupling off, or give the backbone an output layer."
            )

    @property
    def chunk_guidance(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.head.chunk_guidance

    @property
    def writes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.backbone.writes

    # Training ---------------------------------------------------------------------------------------------------

    def loss(
        self,
        batch: Batch,
        *,
        noise: Float[Tensor, "B K T A"] | None = None,
        time: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Losses:
        """The backbone's terms ("text", "action_tokens": cross-entropy per supervised token), and the head's.

        The batch's weights (ProcessorConfig.weights, e.g. "emphasis") multiply the errors of steps. Samples without
        supervised text or without a valid action add nothing to the respective terms, and cost nothing there. In
        training, a backbone that stands still runs without gradients, and its text, which teaches nobody, is not
        predicted.
        """
        still = self.training and not self._reading_learns()
        with torch.no_grad() if still else nullcontext():
            inserted = self.head.insert(batch)
            context = self.backbone.encode(batch, self.head.request, teach=not still, inserted=inserted)
        weights = self.routing.weights
        terms = self.backbone.text_terms(context)
        terms = {name: replace(term, weight=weights.get(name, term.weight)) for name, term in terms.items()}
        return Losses(terms={**terms, **self._action_terms(batch, context, noise, time, generator)})

    def _reading_learns(self) -> bool:
        """Whether anything trains that the context is computed with."""
        return any(p.requires_grad for p in (*self.backbone.parameters(), *self.head.inserting()))

    def _action_terms(
        self,
        batch: Batch,
        context: Context,
        noise: Tensor | None,
        time: Tensor | None,
        generator: torch.Generator | None,
    ) -> dict[str, Term]:
        targets = Targets.of(batch)
        if targets is None:
            return self.head.nothing(batch.text_ids.device)
        draws = self.head.draw(targets, noise, time, generator)
        context = self._route(context, batch.source)
        keep = targets.valid.flatten(1).any(1)
        if bool(keep.all()):
            return self.head.losses(context, targets, draws)
        rows = keep.nonzero()[:, 0]  # the others cost the head nothing
        if not len(rows):
            return self.head.nothing(rows.device)
        terms = self.head.losses(context.select(rows), targets.select(rows), draws.select(rows))
        return {name: _spread(term, rows, batch.size) for name, term in terms.items()}

    def _route(self, context: Context, source: Int64[Tensor, "B"]) -> Context:
        """Stop gradients at the edge from backbone to head; the values are unchanged."""
        if not self.routing.decoupled:
            return context
        if self.routing.sources is None:
            return context.without_gradient()
        chosen = torch.zeros_like(source, dtype=torch.bool)
        for index in self.routing.sources:
            chosen = chosen | (source == index)
        return context.without_gradient(chosen)

    # Inference --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, batch: Batch, *, room: int = 0, text: bool = False) -> Context:
        """Run the backbone once. `room` reserves cache slots behind the sequence; `text` prepares for writing."""
        inserted = self.head.insert(batch)
        return self.backbone.observe(batch, self.head.request, room=room, text=text, inserted=inserted)

    def generate(self, context: Context, length: int, stop_id: int | None = None) -> Int64[Tensor, "B G"]:
        """See `Backbone.generate`."""
        with torch.no_grad():
            return self.backbone.generate(context, length, stop_id)

    def write(
        self, context: Context, lines: Sequence[Line], deadline: float | None = None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """See `Backbone.write`."""
        with torch.no_grad():
            return self.backbone.write(context, lines, deadline)

    def denoise(self, prefix: Context, x: Float[Tensor, "B N T A"], t: Tensor) -> Float[Tensor, "B N T A"]:
        """See `ActionHead.denoise`."""
        return self.head.denoise(prefix, x, t)

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        *,
        prefix: Context | None = None,
        num_samples: int = 1,
        noise: Float[Tensor, "B N T A"] | None = None,
        steps: int | None = None,
        generate: int = 0,
        stop_id: int | None = None,
        lines: Sequence[Line] = (),
        deadline: float | None = None,
        flow: bool = True,
        guidance: float | None = None,
        chunk_guidance: Guidance | None = None,
        generator: torch.Generator | None = None,
    ) -> Sampled:
        """Action chunks from noise, which read all that was written before them.

        generate: > 0 first writes up to that many text tokens; lines: or these lines of text, until `deadline`.
        flow: False leaves actions at noise, for a policy that reads the action tokens it wrote.
        steps, guidance, chunk_guidance: see `ActionHead.sample`.

        Raises:
            ValueError: text is asked of a backbone that writes none, or guidance that the head does not take.
        """
        if not (flow or self.backbone.writes):
            raise refuse_writing()
        if chunk_guidance is not None and chunk_guidance.kind not in self.head.chunk_guidance:
            raise ValueError(
                f"This model takes no {chunk_guidance.kind!r} guidance; it takes "
                f"{', '.join(self.head.chunk_guidance) or 'none'}."
            )
        if guidance is not None and not self.head.classifier_free:
            raise ValueError(
                f"guidance is {guidance}, but the head learnt no prediction without its condition (classifier-free "
                f"guidance); leave it out."
            )
        if noise is None:
            noise = self.draw_noise(batch, num_samples, generator)
        if prefix is None:
            writing = generate + sum(len(line.header) + line.length + 1 for line in lines)
            begun = generate > 0 or (len(lines) > 0 and lines[0].given)
            prefix = self.encode(batch, room=self.head.room(noise.shape[1]) + writing, text=begun)
        ids = self.generate(prefix, generate, stop_id) if generate else None
        written, finished = self.write(prefix, lines, deadline) if lines else ((), None)
        sampled = Sampled(actions=noise)
        if flow:
            sampled = self.head.sample(prefix, noise, steps=steps, guidance=guidance, chunk_guidance=chunk_guidance)
        return replace(sampled, text_ids=ids, lines=written, finished=finished)

    # Parameters -------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The groups of the backbone (vision, projector, llm, embed, ...), and those of the head."""
        return {**self.backbone.parts(), **self.head.parts()}

    def units(self) -> list[nn.Module]:
        """Repeated layers, each of which may be sharded or compiled by itself."""
        return [*self.backbone.units(), *self.head.units()]


def _spread(term: Term, rows: Int64[Tensor, "N"], size: int) -> Term:
    """The term with its tally by row at the rows of the whole batch."""
    if term.rows is None:
        return term
    return replace(term, rows=term.rows.new_zeros(2, size).index_copy_(1, rows, term.rows))

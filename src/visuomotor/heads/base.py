"""The contract of action heads, and the one function that makes a loss term of errors.

Dimensions: B samples, K noise draws in training, N samples at inference, T horizon, A padded action width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from visuomotor.backbones.base import Context, ContextRequest
from visuomotor.contract import Batch, Sampled, Term
from visuomotor.nn.guidance import Guidance

__all__ = ["ActionHead", "Draws", "MeanOver", "Targets", "action_term", "step_weights"]

MeanOver = Literal["valid", "entries", "weights"]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random numbers of one training step.

    noise, time   float[B, K, T, A], and [B, K] or, for each action, [B, K, T]; in the head's own convention
    extra         what a head draws beside them, [B, ...]
    """

    noise: Float[Tensor, "B K T A"]
    time: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor) -> "Draws":
        """The draws of some samples."""
        extra = {name: t[rows] for name, t in self.extra.items()}
        return Draws(noise=self.noise[rows], time=self.time[rows], extra=extra)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a head learns: normalised actions, which entries of them are data, and what the batch says beside them."""

    actions: Float[Tensor, "B T A"]
    valid: Bool[Tensor, "B T A"]
    weights: dict[str, Float[Tensor, "B T"]]
    labels: dict[str, Tensor]

    @classmethod
    def of(cls, batch: Batch) -> "Targets | None":
        """The targets of a batch, None where it has no actions."""
        if batch.actions is None:
            return None
        valid = batch.action_valid
        valid = torch.ones_like(batch.actions, dtype=torch.bool) if valid is None else valid
        return cls(actions=batch.actions, valid=valid, weights=batch.weights, labels=batch.labels)

    def select(self, rows: Tensor) -> "Targets":
        """The targets of some samples."""
        weights = {name: t[rows] for name, t in self.weights.items()}
        labels = {name: t[rows] for name, t in self.labels.items()}
        return Targets(actions=self.actions[rows], valid=self.valid[rows], weights=weights, labels=labels)

    @property
    def steps(self) -> Bool[Tensor, "B T A"]:
        """The steps that are data, with all dimensions.

        Dimensions beyond a robot's own are zero and learnt as such: sampling unfolds noise in them, too, and what
        nobody taught would grow and be another input than in training.
        """
        return self.valid.any(-1, keepdim=True).expand_as(self.actions)


def step_weights(targets: Targets, but: Sequence[str] = ()) -> Float[Tensor, "B T"] | None:
    """The product of all weights (ProcessorConfig.weights) except those named in `but`; None where there is none."""
    product = None
    for values in (values for name, values in targets.weights.items() if name not in but):
        product = values if product is None else product * values
    return product


def action_term(
    errors: Float[Tensor, "B K T A"],
    valid: Tensor,
    weights: Float[Tensor, "B T"] | None = None,
    mean_over: MeanOver = "valid",
    weight: float = 1.0,
    columns: Bool[Tensor, "B 1 A"] | None = None,
) -> Term:
    """The loss term of errors: the sum of `valid` errors times their step's weight, and what it is a mean over.

    valid      bool[B, T, A], or [B, K, T, A] where draws differ
    weights    of the steps
    mean_over  "valid": the valid entries; "entries": all entries of rows that have a valid one, padding included;
               "weights": the weights of the valid entries
    weight     of the term in the loss
    columns    those that count as entries, where a robot has fewer than A
    """
    draws = errors.shape[1]
    factors = (valid if valid.ndim == 4 else valid[:, None]).to(errors.dtype)
    scaled = factors if weights is None else factors * weights[:, None, :, None]
    weighted = errors * scaled
    counted = scaled if mean_over == "weights" else factors
    if mean_over == "entries":
        counted = factors.flatten(1).any(1)[:, None, None, None].to(errors.dtype).expand(-1, 1, *errors.shape[2:])
        counted = counted if columns is None else counted * columns[:, None]
    counts = counted.flatten(1).sum(1)
    if counted.shape[1] == 1:
        counts = draws * counts
    rows = torch.stack([weighted.detach().flatten(1).sum(1), counts.detach()])
    return Term(sum=weighted.sum(), count=counts.sum(), weight=weight, rows=rows)


class ActionHead(nn.Module, ABC):
    """Makes action chunks of a context.

    request          what it reads of the backbone
    terms            names of its loss terms
    unit_time        times are flow times in [0, 1], else steps of a noise schedule, integers
    chunk_guidance   kinds of nn.guidance.Guidance that `sample` takes
    classifier_free  `sample` takes a scale of classifier-free guidance
    """

    request: ContextRequest
    terms: tuple[str, ...]
    unit_time: bool = False
    chunk_guidance: tuple[str, ...] = ()
    classifier_free: bool = False

    def insert(self, batch: Batch) -> Float[Tensor, "B N W"] | None:
        """Tokens of the head's own that the backbone reads behind the views; None: there are none."""
        return None

    def inserting(self) -> list[nn.Parameter]:
        """Parameters that make them."""
        return []

    @abstractmethod
    def draw(
        self, targets: Targets, noise: Tensor | None, time: Tensor | None, generator: torch.Generator | None
    ) -> Any:
        """What is random in a training step (`Draws`, or several of them); `noise` and `time` replace draws."""

    @abstractmethod
    def losses(self, context: Context, targets: Targets, draws: Any) -> dict[str, Term]:
        """Named terms, with tallies by row."""

    @abstractmethod
    def nothing(self, device: torch.device) -> dict[str, Term]:
        """The terms of a batch without actions."""

    @abstractmethod
    def denoise(self, context: Context, x: Float[Tensor, "B N T A"], t: Tensor) -> Float[Tensor, "B N T A"]:
        """The head's prediction for x at times t, without guidance, differentiable in x."""

    @abstractmethod
    def sample(
        self,
        context: Context,
        noise: Float[Tensor, "B N T A"],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        chunk_guidance: Guidance | None = None,
    ) -> Sampled:
        """Normalised chunks from `noise`.

        steps           of denoising; None: the configuration's
        guidance        scale of classifier-free guidance, for heads that have it
        chunk_guidance  ties the chunks to actions that were planned before (real-time chunking)
        """

    def room(self, samples: int) -> int:
        """Slots that sampling needs in the backbone's cache."""
        return 0

    @abstractmethod
    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Disjoint groups that cover all parameters."""

    def units(self) -> list[nn.Module]:
        """Repeated layers, each of which may be sharded or compiled by itself."""
        return []

"""The contract of backbones: what reads images and text, and what action heads read of it.

Dimensions: B samples, P slots of the sequence, W width of the language model, V views; others as in contract.Batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from visuomotor.contract import Batch, Term, TextKind
from visuomotor.nn.decoder import KeyValue
from visuomotor.nn.masks import valid_first
from visuomotor.text.grammar import Line

__all__ = ["HIDDEN", "Backbone", "Context", "ContextRequest", "Slots", "refuse_writing"]

HIDDEN = 1  # label of slots that the head does not see: discrete action tokens, and text that was not finished


@dataclass(frozen=True, kw_only=True)
class ContextRequest:
    """What a head reads of a backbone.

    keys       keys and values of every layer of the language model
    layers     layers whose hidden states are read: 0 the embeddings, i the output of i layers; the last layer's, also
               as -1, are normalised (the numbering of transformers)
    at         slots at which the states are read: "all" of them, the last slot of the "prompt" alone, or the slot
               before each of the `queries` query tokens of a text (TextKind.QUERY)
    features   tower features by name, e.g. "prefix": class token and registers of DINOv2
    """

    keys: bool = False
    layers: tuple[int, ...] = ()
    at: Literal["all", "prompt", "queries"] = "all"
    queries: int = 0
    features: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Slots:
    """The tokens of a sequence: `kind` is a TextKind, `loss` marks targets, `turn` as in contract.Batch.

    `group`: 0 for tokens that are no text, else 1 + turn (1 without turns): token convolutions may keep groups apart.
    """

    ids: Int64[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]
    kind: Int64[Tensor, "B P"]
    loss: Bool[Tensor, "B P"]
    group: Int64[Tensor, "B P"]
    turn: Int64[Tensor, "B P"] | None = None

    @classmethod
    def of(cls, batch: Batch) -> "Slots":
        """The text of a batch with its padding moved to the end."""
        slots = cls(
            ids=batch.text_ids, valid=batch.text_valid, kind=batch.text_kind, loss=batch.text_loss & batch.text_valid,
            turn=batch.text_turn,
            group=torch.ones_like(batch.text_ids) if batch.text_turn is None else batch.text_turn + 1,
        )  # fmt: skip
        return slots.reordered(valid_first(batch.text_valid))

    def reordered(self, order: Int64[Tensor, "B P"]) -> "Slots":
        """The slots in another order."""
        return replace(self, **{name: t.gather(1, order) for name, t in vars(self).items() if t is not None})

    def with_tokens(self, valid: Bool[Tensor, "B N"], at: int) -> "Slots":
        """The slots with N tokens without an id (views, state) in front of slot `at`; they belong to turn 0."""
        zeros = torch.zeros_like(valid, dtype=torch.int64)
        values = {
            "ids": zeros, "valid": valid, "kind": zeros + int(TextKind.PROMPT), "loss": zeros.bool(), "turn": zeros,
            "group": zeros,
        }  # fmt: skip
        joined = {
            name: torch.cat([t[:, :at], values[name], t[:, at:]], dim=1)
            for name, t in vars(self).items()
            if t is not None
        }
        return replace(self, **joined)


@dataclass(kw_only=True)
class Context:
    """An encoded observation: everything that heads read, and what writing goes on from.

    slots       tokens of the sequence in training; `targets` rows and slots of those that the text loss predicts, from
                `every`, the last states of all slots
    labels      int64[B, P]: HIDDEN where the head does not look, else 0; with `valid`, they describe the filled slots
    keys        keys and values of each layer, of training; at inference they are in `cache`
    states      {layer: [B, P, W]}, or [B, 1, W] where the request reads one slot, or [B, Q, W], one for each query
    features    {name: tower features of all views}
    last        [B, W], the state from which the next token is predicted; None where no text is to be written
    answer      bool[B, P], slots behind the prompt (only backbones whose heads pool over prompt and answer)
    positions   of the next token, where they are not the count of valid slots
    turns       int64[B, P], `turn_count` their largest; None: one text
    state, embodiment, source, labels of the batch   what heads read beside the backbone; `told` are the batch's labels
    """

    valid: Bool[Tensor, "B P"]
    labels: Int64[Tensor, "B P"]
    state: Float[Tensor, "B S"]
    embodiment: Int64[Tensor, "B"]
    views: tuple[bool, ...] = ()
    told: dict[str, Tensor] = field(default_factory=dict)
    slots: Slots | None = None
    targets: tuple[Tensor, Tensor] | None = None
    every: Float[Tensor, "B P W"] | None = None
    keys: list[KeyValue] | None = None
    cache: Any = None
    states: dict[int, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    last: Float[Tensor, "B W"] | None = None
    answer: Bool[Tensor, "B P"] | None = None
    positions: Int64[Tensor, "B"] | None = None
    turns: Int64[Tensor, "B P"] | None = None
    turn_count: int = 0

    @property
    def size(self) -> int:
        return len(self.valid)

    def select(self, rows: Int64[Tensor, "N"]) -> "Context":
        """The context of some samples, as far as heads read it in training."""
        chosen = {name: getattr(self, name) for name in ("valid", "labels", "state", "embodiment", "answer")}
        keys = self.keys
        return replace(
            self,
            **{name: t[rows] for name, t in chosen.items() if t is not None},
            told={name: t[rows] for name, t in self.told.items()},
            keys=keys and [(k.index_select(0, rows), v.index_select(0, rows)) for k, v in keys],
            states={layer: t.index_select(0, rows) for layer, t in self.states.items()},
            features={name: t.index_select(0, rows) for name, t in self.features.items()},
            slots=None,
            every=None,
        )

    def without_gradient(self, rows: Bool[Tensor, "B"] | None = None) -> "Context":
        """The same values, through which no gradient of a head reaches the backbone; `rows`: of these samples alone."""

        def stop(t: Tensor) -> Tensor:
            return t.detach() if rows is None else torch.where(rows.view(-1, *[1] * (t.ndim - 1)), t.detach(), t)

        return replace(
            self,
            keys=None if self.keys is None else [(stop(k), stop(v)) for k, v in self.keys],
            states={layer: stop(t) for layer, t in self.states.items()},
            features={name: stop(t) for name, t in self.features.items()},
        )


class Backbone(nn.Module, ABC):
    """Reads images and text. `writes`: it has an output layer over the vocabulary."""

    writes: bool = False

    @abstractmethod
    def encode(
        self, batch: Batch, request: ContextRequest, *, teach: bool = True, inserted: Tensor | None = None
    ) -> Context:
        """One pass with gradients; `teach`: the states that the text loss reads are wanted, too.

        inserted   [B, N, W] tokens of the head's own, which stand between views and text
        """

    @abstractmethod
    def observe(
        self,
        batch: Batch,
        request: ContextRequest,
        *,
        room: int = 0,
        text: bool = False,
        inserted: Tensor | None = None,
    ) -> Context:
        """One pass for inference: `room` more slots are reserved in the cache; `text`: text will be written."""

    def text_terms(self, context: Context) -> dict[str, Term]:
        """Cross-entropy of the context's targets, {} where the backbone predicts no text; each weight is 1."""
        return {}

    def generate(self, context: Context, length: int, stop_id: int | None = None) -> Int64[Tensor, "B G"]:
        """Up to `length` greedy tokens behind the context's text."""
        raise refuse_writing()

    def write(
        self, context: Context, lines: Sequence[Line], deadline: float | None = None
    ) -> tuple[tuple[Int64[Tensor, "B G"], ...], Bool[Tensor, "B N"]]:
        """Lines of text one after the other, into the context: ids of each, and which were finished by `deadline`."""
        raise refuse_writing()

    @abstractmethod
    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Disjoint groups that cover all parameters."""

    def units(self) -> list[nn.Module]:
        """Repeated layers, each of which may be sharded or compiled by itself."""
        return []


def refuse_writing() -> ValueError:
    """The error where text is asked of a backbone without an output layer."""
    return ValueError(
        "This model writes no text: it has no output layer over the vocabulary. Let it act at once (think=(), "
        "actions_from='flow'), or take a model that writes, e.g. a DM0."
    )

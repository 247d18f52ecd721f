"""A vision tower in front of a decoder of our own: the backbone of DM0, pi0, CogACT, DAM-VLA and OpenVLA-OFT."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.backbones.base import Backbone, Context, ContextRequest, Slots, refuse_writing
from visuomotor.backbones.text_loss import text_terms
from visuomotor.backbones.towers import Vision
from visuomotor.backbones.writing import WordIds, Writer, turn_layout
from visuomotor.contract import Batch, Term, TextKind
from visuomotor.nn.decoder import Decoder, DecoderConfig, KVCache
from visuomotor.nn.masks import Attention, Layout, See, causal_attention, compile_attention, valid_first
from visuomotor.text.grammar import Line

__all__ = ["DecoderBackbone", "Reading"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a decoder reads views and text.

    attention       "causal"; "prefix": views and prompt see each other in both directions, what follows is causal;
                    "full": every token sees all others
    images_after    text tokens in front of the views: 0, or 1 for models that begin with BOS
    output          layer over the vocabulary: "tied" to the embedding, of its "own", or "none": no text is predicted
    split           a token convolution does not mix views with text
    action_tokens   discrete action tokens have a loss term of their own
    film_padding    towers that read the text read its padding, too (as published code does in training)

    Raises:
        ValueError: text is to be predicted where every token sees the ones behind it.
    """

    attention: Literal["causal", "prefix", "full"] = "causal"
    images_after: int = 0
    output: Literal["tied", "own", "none"] = "tied"
    split: bool = True
    action_tokens: bool = True
    film_padding: bool = False
    words: WordIds = field(default_factory=WordIds)

    def __post_init__(self) -> None:
        if self.attention == "full" and self.output != "none":
            raise ValueError(
                f"attention is 'full' and output is {self.output!r}, but a token that sees those behind it learns "
                f"nothing from predicting them; set output to 'none', or attention to 'causal' or 'prefix'."
            )


FULL = Layout(blocks=("all",), sees={("all", "all"): See.ALL})


class DecoderBackbone(Backbone):
    """[views | inserted tokens | text] through one decoder; the views may stand behind the first text token."""

    def __init__(self, vision: Vision, llm: DecoderConfig, reading: Reading) -> None:
        super().__init__()
        self.reading = reading
        self.vision = vision
        self.llm = Decoder(llm)

    @property
    def writes(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.reading.output != "none"

    # Reading ----------------------------------------------------------------------------------------------------

    def encode(
        self, batch: Batch, request: ContextRequest, *, teach: bool = True, inserted: Tensor | None = None
    ) -> Context:
        context, x, attention = self._sequence(batch, request, inserted)
        if teach and self.writes and context.slots is not None:
            rows, places = context.slots.loss.nonzero(as_tuple=True)
            context.targets = (rows, places) if len(rows) else None
        return self._read(context, x, attention, request, everywhere=context.targets is not None)

    def observe(
        self,
        batch: Batch,
        request: ContextRequest,
        *,
        room: int = 0,
        text: bool = False,
        inserted: Tensor | None = None,
    ) -> Context:
        if text and not self.writes:
            raise refuse_writing()
        context, x, attention = self._sequence(batch, request, inserted)
        if request.keys or text:
            context.cache = KVCache(self.llm.config, x.shape[0], x.shape[1] + room, like=x)
        context = self._read(context, x, attention, request, everywhere=text)
        if context.every is not None:
            rows = torch.arange(x.shape[0], device=x.device)
            context.last = context.every[rows, context.valid.sum(1) - 1]
        context.slots = context.every = None
        return context

    def _read(
        self, context: Context, x: Tensor, attention: Attention, request: ContextRequest, *, everywhere: bool
    ) -> Context:
        """Run the decoder, and keep what is asked for; `everywhere`: also the last states of all slots."""
        depth, layers = len(self.llm.layers), request.layers
        wrong = [layer for layer in layers if not -depth - 1 <= layer <= depth]
        if wrong:
            raise ValueError(f"There is no layer {wrong[0]}: the language model has {depth}, and 0 is its embeddings.")
        # The states in between, and the last ones of all slots, are kept only where somebody reads them.
        hidden: list[Tensor] | None = [] if any(layer not in (-1, depth) for layer in layers) else None
        whole = everywhere or (bool(layers) and request.at != "prompt")
        states, keys = self.llm(x, attention, cache=context.cache, hidden=hidden, keys_only=not whole)
        if context.cache is not None:
            context.cache.length = x.shape[1]
        elif request.keys:
            context.keys = keys
        context.every = states if everywhere else None
        if request.at == "all":
            context.states = {layer: states if hidden is None else [*hidden, states][layer] for layer in layers}
        elif request.at == "queries":
            slot = self._before_queries(context, request.queries)
            context.states = {
                layer: _at(states if hidden is None else [*hidden, states][layer], slot) for layer in layers
            }
        elif layers:
            slot = self._last_of_prompt(context)
            last = _at(states, slot) if whole else self.llm.last_state(states, attention, keys[-1], slot)
            for layer in layers:
                final = hidden is None or layer in (-1, depth)
                context.states[layer] = last if final else _at([*(hidden or ()), last][layer], slot)
        return context

    def _sequence(
        self, batch: Batch, request: ContextRequest, inserted: Tensor | None
    ) -> tuple[Context, Float[Tensor, "B P W"], Attention]:
        """What is read before the decoder runs: the context so far, embedded tokens, and who sees whom."""
        slots, at = Slots.of(batch), self.reading.images_after
        text = self._embed(slots.ids).masked_fill((slots.kind == int(TextKind.QUERY))[..., None], 0)
        views, valid, features = self._views(batch, text, self._text_feature(slots, text))
        if inserted is not None:
            views = torch.cat([views, inserted], dim=1)
            valid = F.pad(valid, (0, inserted.shape[1]), value=True)
        x = torch.cat([text[:, :at], views, text[:, at:]], dim=1)
        slots = slots.with_tokens(valid, at)
        if batch.mixes_views:  # slots of absent views move behind the valid ones, as padding
            order = valid_first(slots.valid)[:, : max(1, int(slots.valid.sum(1).max()))]
            slots, x = slots.reordered(order), x.gather(1, order[..., None].expand(-1, -1, x.shape[-1]))
        context = Context(
            valid=slots.valid,
            labels=(slots.kind == int(TextKind.ACTION)).long(),
            state=batch.state,
            embodiment=batch.embodiment,
            views=batch.views,
            told=batch.labels,
            slots=slots,
            features={name: features[name] for name in request.features if name in features},
            turns=slots.turn,
            turn_count=0 if slots.turn is None else int(slots.turn.max()),
        )
        return context, x, self._attention(slots, context.turn_count)

    def _embed(self, ids: Int64[Tensor, "B L"]) -> Float[Tensor, "B L W"]:
        return self.llm.embed_tokens(ids)

    def _text_feature(self, slots: Slots, text: Float[Tensor, "B L W"]) -> Float[Tensor, "B W"] | None:
        """Mean embedding of the text without its queries, where the towers read it."""
        if not self.vision.reads_text:
            return None
        words = slots.kind != int(TextKind.QUERY)
        words = words if self.reading.film_padding else words & slots.valid
        return (text * words[..., None]).sum(1) / words.sum(1, keepdim=True).clamp(min=1)

    def _views(self, batch: Batch, like: Tensor, feature: Tensor | None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(tokens [B, N, W], validity [B, N], features [B, ...]) of the views, one behind the other.

        feature: of each row's text, for towers that read it.
        One call of the tower for all images; images of views that a row has not are not computed.
        """
        views = list(batch.images.values())
        if not views:
            return like[:, :0], like.new_zeros(len(like), 0, dtype=torch.bool), {}
        pixels = torch.cat([view if view.is_floating_point() else self.vision.prepare(view) for view in views])
        text = None if feature is None else feature.repeat(len(views), 1)
        if not batch.mixes_views:
            tokens, features = self.vision(pixels, text)
            valid = batch.text_valid.new_ones(len(pixels))
        else:
            valid = batch.present.T.flatten()
            rows = valid.nonzero()[:, 0]
            tokens, features = self.vision(pixels[rows], None if text is None else text[rows])
            tokens, features = _spread(tokens, rows, valid), {n: _spread(f, rows, valid) for n, f in features.items()}

        def beside(t: Tensor) -> Tensor:
            return t.unflatten(0, (len(views), -1)).transpose(0, 1).flatten(1, 2)

        valid = beside(valid[:, None].expand(-1, tokens.shape[1]))
        return beside(tokens).to(like.dtype), valid, {name: beside(feature) for name, feature in features.items()}

    def _attention(self, slots: Slots, turns: int) -> Attention:
        """Who sees whom; turns see the views and themselves."""
        turn = torch.zeros_like(slots.ids) if slots.turn is None else slots.turn
        if self.reading.attention == "full":
            attention = compile_attention(FULL, torch.zeros_like(turn), slots.valid)
        elif self.reading.attention == "prefix":
            blocks = 2 * turn + _answered(slots.kind > int(TextKind.PROMPT), turn, turns)
            attention = compile_attention(prefix_layout(turns), blocks, slots.valid)
        elif slots.turn is None:
            attention = causal_attention(slots.valid)
        else:
            attention = compile_attention(turn_layout(turns), slots.turn, slots.valid)
        return replace(attention, groups=slots.group if self.reading.split else None)

    def _before_queries(self, context: Context, count: int) -> Int64[Tensor, "B Q"]:
        """The slot before each query. A row without queries, which has no actions either, gets any slots."""
        slots = context.slots
        assert slots is not None
        if count > slots.kind.shape[1]:
            raise ValueError(
                f"The head reads {count} queries, but the sequence has {slots.kind.shape[1]} tokens; take the text "
                f"layout that the model's configuration names, with the model's horizon and action width."
            )
        # The number of queries is the request's, since to count them the host would have to wait for the device.
        return (valid_first(slots.kind == int(TextKind.QUERY))[:, :count] - 1).clamp(min=0)

    def _last_of_prompt(self, context: Context) -> Int64[Tensor, "B"]:
        slots = context.slots
        assert slots is not None
        prompt = slots.valid & (slots.kind <= int(TextKind.PROMPT))
        prompt = prompt if slots.turn is None else prompt & (slots.turn == 0)  # later turns are questions
        return prompt.cumsum(1).argmax(1)

    # Text -------------------------------------------------------------------------------------------------------

    def text_terms(self, context: Context) -> dict[str, Term]:
        if not self.writes:
            return {}
        return text_terms(self._logits, context, action_tokens=self.reading.action_tokens)

    def generate(self, context: Context, length: int, stop_id: int | None = None) -> Int64[Tensor, "B G"]:
        """Up to `length` greedy tokens; each row stops after its own `stop_id` (default newline) and is padded.

        Written tokens, the stop included, become visible to the head; action tokens do not.
        """
        words, line = self.reading.words, Line(header=context.labels[0, :0], length=length)
        ids, _ = self._writer(context).go_on(line, words.newline if stop_id is None else stop_id)
        return F.pad(ids, (0, length - ids.shape[1]), value=words.pad)

    def write(
        self, context: Context, lines: Sequence[Line], deadline: float | None = None
    ) -> tuple[tuple[Int64[Tensor, "B G"], ...], Bool[Tensor, "B N"]]:
        """Write `lines` one after the other into the context's cache: forced header, generated text, newline.

        Returns each line's ids without its header, padded where a row stopped earlier, and which were finished before
        `deadline` (of time.perf_counter). The head does not see the others. A line that reaches its length without a
        newline is ended by one if another line follows.
        """
        return self._writer(context).write(lines, deadline)

    def _writer(self, context: Context) -> Writer:
        if not self.writes:
            raise refuse_writing()
        return Writer(self.reading.words, self.llm, self._embed, self._logits, context)

    def _logits(self, states: Tensor) -> Tensor:
        tied = self.reading.output == "tied"
        return F.linear(states, self.llm.embed_tokens.weight if tied else self.lm_head.weight)

    def build_output(self) -> None:
        """Make an output layer of its own, if the configuration has one; models call it after their initialisation."""
        llm = self.llm.config
        if self.reading.output == "own":
            self.lm_head = nn.Linear(llm.width, llm.vocab_size or 0, bias=False)
            nn.init.normal_(self.lm_head.weight, std=llm.width**-0.5)

    # Parameters -------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision, projector, llm, embed, and lm_head where it is not tied."""
        embed = list(self.llm.embed_tokens.parameters())
        projector = list(self.vision.projector.parameters())
        others = {id(parameter) for parameter in (*embed, *projector)}
        found = {
            "vision": [p for p in self.vision.parameters() if id(p) not in others],
            "projector": projector,
            "llm": [p for p in self.llm.parameters() if id(p) not in others],
            "embed": embed,
        }
        if self.reading.output == "own":
            found["lm_head"] = list(self.lm_head.parameters())
        return found

    def units(self) -> list[nn.Module]:
        return [*self.vision.units(), *self.llm.layers]


@lru_cache(maxsize=64)
def prefix_layout(turns: int) -> Layout:
    """Block 2k holds the prompt of turn k, block 2k + 1 what is answered; all see block 0, the views and the prompt."""
    blocks = tuple(f"{name}{k}" for k in range(turns + 1) for name in ("prompt", "answer"))
    sees: dict[tuple[str, str], See] = {}
    for k in range(turns + 1):
        for block in (f"prompt{k}", f"answer{k}"):
            sees[block, "prompt0"] = sees[block, f"prompt{k}"] = See.ALL
        sees[f"answer{k}", f"answer{k}"] = See.EARLIER
    return Layout(blocks=blocks, sees=sees)


def _answered(answer: Bool[Tensor, "B P"], turn: Int64[Tensor, "B P"], turns: int) -> Bool[Tensor, "B P"]:
    """The slots of each turn from its first answer on: a second question is read behind that answer, causally."""
    counts = torch.zeros(len(turn), turns + 1, dtype=torch.int64, device=turn.device)
    counts = counts.scatter_add(1, turn, answer.long())
    before = counts.cumsum(1) - counts  # answers of earlier turns, which stand in front of this one
    return answer.cumsum(1) > before.gather(1, turn)


def _spread(found: Float[Tensor, "N ..."], rows: Int64[Tensor, "N"], valid: Bool[Tensor, "M"]) -> Tensor:
    """`found` at `rows` of zeros."""
    return found.new_zeros(len(valid), *found.shape[1:]).index_copy(0, rows, found)


def _at(states: Float[Tensor, "B P W"], slot: Int64[Tensor, "B *Q"]) -> Float[Tensor, "B Q W"]:
    """The states at one slot of each row, or at several."""
    return states.gather(1, slot.reshape(len(slot), -1, 1).expand(-1, -1, states.shape[-1]))

"""Qwen2-VL as a backbone. Dimensions: B samples, P slots, W width."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.backbones.base import Backbone, Context, ContextRequest
from visuomotor.backbones.qwen2_vl.arrangement import Arrangement, arrange
from visuomotor.backbones.qwen2_vl.config import Qwen2VLConfig
from visuomotor.backbones.qwen2_vl.towers import image_tokens, language_model, read, vision_tower
from visuomotor.backbones.qwen2_vl.writing import write
from visuomotor.backbones.text_loss import text_terms
from visuomotor.contract import Batch, Term
from visuomotor.text.grammar import Line

__all__ = ["Qwen2VLBackbone"]


class Qwen2VLBackbone(Backbone):
    """The states of one chat, images and text, whose `answer` is what stands behind the prompt.

    Its output layer is the embedding.
    """

    writes = True

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__()
        self.config = config
        self.vision, self.llm = vision_tower(config), language_model(config)
        self._checkpoint = False

    # Reading ----------------------------------------------------------------------------------------------------

    def encode(
        self, batch: Batch, request: ContextRequest, *, teach: bool = True, inserted: Tensor | None = None
    ) -> Context:
        context, states = self._read(batch, request, inserted)
        if teach and context.slots is not None:
            rows, places = context.slots.loss.nonzero(as_tuple=True)
            context.targets = (rows, places) if len(rows) else None
            context.every = states
        return context

    def observe(
        self,
        batch: Batch,
        request: ContextRequest,
        *,
        room: int = 0,
        text: bool = False,
        inserted: Tensor | None = None,
    ) -> Context:
        from transformers import DynamicCache

        cache = DynamicCache() if text or room else None
        context, states = self._read(batch, request, inserted, cache)
        context.cache, context.last, context.slots = cache, states[:, -1], None
        return context

    def _read(
        self, batch: Batch, request: ContextRequest, inserted: Tensor | None, cache: Any = None
    ) -> tuple[Context, Float[Tensor, "B P W"]]:
        """The context, and the last states of all slots."""
        if request.keys or request.features or inserted is not None:
            raise ValueError(
                "Qwen2-VL gives states of its layers (ContextRequest.layers), neither keys and values nor tower "
                "features, and takes no tokens of a head; choose a head that reads states."
            )
        arranged = arrange(batch, self.config.image_id, self.config.image_grid)
        slots = arranged.slots
        x = self._embed(batch, arranged)
        last, states = read(self.llm, x, arranged.positions, slots.valid, cache, request.layers)
        if request.at == "prompt":
            slot = _last(slots.valid & ~arranged.answer)
            states = {layer: t.gather(1, slot[..., None].expand(-1, -1, t.shape[-1])) for layer, t in states.items()}
        context = Context(
            valid=slots.valid,
            labels=torch.zeros_like(slots.ids),
            state=batch.state,
            embodiment=batch.embodiment,
            views=batch.views,
            told=batch.labels,
            slots=slots,
            states=states,
            answer=arranged.answer,
            positions=arranged.after,
        )
        return context, last

    def _embed(self, batch: Batch, arranged: Arrangement) -> Float[Tensor, "B P W"]:
        """Tokens of text and images; views that a row lacks are not computed."""
        x = self.llm.embed_tokens(arranged.slots.ids)
        present = batch.present if batch.mixes_views else None
        if not batch.images or (present is not None and not bool(present.any())):
            return x
        tokens = image_tokens(self.vision, list(batch.images.values()), present, self.config)
        return x.masked_scatter(arranged.image[..., None], tokens.to(x.dtype))

    # Text -------------------------------------------------------------------------------------------------------

    def text_terms(self, context: Context) -> dict[str, Term]:
        return text_terms(self._logits, context, action_tokens=False)

    def _logits(self, states: Float[Tensor, "N W"]) -> Tensor:
        return F.linear(states, self.llm.embed_tokens.weight)

    def generate(self, context: Context, length: int, stop_id: int | None = None) -> Int64[Tensor, "B G"]:
        """Up to `length` greedy tokens of an answer; each row stops after its own `stop_id` (default: end of turn)."""
        end_id = self.config.end_id if stop_id is None else stop_id
        return write(self.llm, context, length, end_id=end_id, pad_id=self.config.pad_id)[0]

    def write(
        self, context: Context, lines: Sequence[Line], deadline: float | None = None
    ) -> tuple[tuple[Int64[Tensor, "B G"], ...], Bool[Tensor, "B N"]]:
        """Write the answer, which ends with the turn, until `deadline`; heads do not see one that is unfinished.

        Raises:
            ValueError: more than one line, or one with a header or a grammar.
        """
        if len(lines) > 1:
            raise ValueError(f"Qwen2-VL writes one answer before it acts, not {len(lines)} lines.")
        if len(lines[0].header) or lines[0].grammar is not None:
            raise ValueError("An answer of Qwen2-VL has neither a header nor a grammar; ask for a line without them.")
        ids, finished = write(
            self.llm,
            context,
            lines[0].length,
            end_id=self.config.end_id,
            pad_id=self.config.pad_id,
            deadline=deadline,
        )
        return (ids,), finished[:, None]

    # Parameters -------------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> bool:
        """Whether layers keep only their inputs and are computed again in the backward pass."""
        return self._checkpoint

    @checkpoint.setter
    def checkpoint(self, on: bool) -> None:
        self._checkpoint = on
        for tower in (self.vision, self.llm):  # layers of transformers have a switch of their own
            if on:
                tower.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            else:
                tower.activation_checkpointing_disable()

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """vision (without its merger), merger, llm, embed."""
        merger, embed = list(self.vision.merger.parameters()), list(self.llm.embed_tokens.parameters())
        others = {id(parameter) for parameter in (*merger, *embed)}
        return {
            "vision": [p for p in self.vision.parameters() if id(p) not in others],
            "merger": merger,
            "llm": [p for p in self.llm.parameters() if id(p) not in others],
            "embed": embed,
        }

    def units(self) -> list[nn.Module]:
        return [*self.vision.blocks, *self.llm.layers]


def _last(chosen: Bool[Tensor, "B P"]) -> Int64[Tensor, "B 1"]:
    """The last chosen slot of each row."""
    slot = torch.arange(chosen.shape[1], device=chosen.device).expand_as(chosen)
    return slot.where(chosen, -1).argmax(1, keepdim=True)

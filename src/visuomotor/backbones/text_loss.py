"""Next-token cross-entropy of a backbone, computed at supervised tokens alone."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from visuomotor.backbones.base import Context
from visuomotor.contract import Term, TextKind
from visuomotor.nn.terms import by_row, nothing

__all__ = ["text_terms"]


def text_terms(logits: Callable[[Tensor], Tensor], context: Context, *, action_tokens: bool = True) -> dict[str, Term]:
    """Terms "text" and, with `action_tokens`, "action_tokens" (the targets of kind ACTION); their means are per token.

    logits   from states [N, W] to [N, vocabulary]
    """
    names = ("text", "action_tokens") if action_tokens else ("text",)
    slots, states = context.slots, context.every
    if slots is None or states is None or context.targets is None:
        return {name: nothing(1.0, context.valid.device) for name in names}
    rows, places = context.targets
    entropy = F.cross_entropy(logits(states[rows, places - 1]).float(), slots.ids[rows, places], reduction="none")
    discrete = slots.kind[rows, places] == int(TextKind.ACTION)
    if not action_tokens:
        discrete = torch.zeros_like(discrete)
    chosen = {"text": ~discrete, "action_tokens": discrete}
    return {
        name: Term(
            sum=(entropy * chosen[name]).sum(),
            count=chosen[name].sum(),
            rows=by_row(entropy * chosen[name], chosen[name], rows, len(states)),
        )
        for name in names
    }

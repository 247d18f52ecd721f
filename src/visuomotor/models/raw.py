"""Raw tensors, as published code takes them, as a batch: prepared images, masks by row, token ids."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from visuomotor.contract import Batch, TextKind

__all__ = ["raw_batch"]


def raw_batch(
    images: Float[Tensor, "B V C S S"],
    view_mask: Bool[Tensor, "B V"],
    ids: Int64[Tensor, "B L"],
    text_mask: Bool[Tensor, "B L"],
    state: Float[Tensor, "B S"] | None = None,
    actions: Float[Tensor, "B T A"] | None = None,
) -> Batch:
    """A batch without targets for text; views that no row has are left out.

    Raises:
        ValueError: the shapes disagree.
    """
    view_mask, text_mask = view_mask.bool(), text_mask.bool()
    batch, views = view_mask.shape
    if images.shape[:2] != (batch, views) or ids.shape != text_mask.shape or ids.shape[0] != batch:
        raise ValueError(
            f"images {tuple(images.shape)}, view_mask {tuple(view_mask.shape)}, ids {tuple(ids.shape)} and "
            f"text_mask {tuple(text_mask.shape)} disagree; expected [B, V, C, H, W], [B, V], [B, L] and [B, L]."
        )
    present = view_mask.any(0).tolist()
    zeros = torch.zeros(batch, dtype=torch.int64, device=ids.device)
    return Batch(
        images={str(i): images[:, i] for i, there in enumerate(present) if there},
        image_valid=view_mask,
        text_ids=ids,
        text_valid=text_mask,
        text_kind=torch.full_like(ids, int(TextKind.PROMPT)),
        text_loss=torch.zeros_like(text_mask),
        state=images.new_zeros(batch, 0) if state is None else state,
        actions=actions,
        action_valid=None if actions is None else torch.ones_like(actions, dtype=torch.bool),
        embodiment=zeros,
        source=zeros,
    )

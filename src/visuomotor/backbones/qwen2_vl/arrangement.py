"""A batch's text and images as Qwen2-VL reads them: one sequence a row, padded on the left, with M-RoPE positions.

Dimensions: B samples, L text tokens, P slots, V views.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.nn import functional as F

from visuomotor.backbones.base import Slots
from visuomotor.contract import Batch, TextKind

__all__ = ["Arrangement", "arrange"]


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """Slots of every row: padding, then images and text as they stand in the chat, the answer last.

    answer     slots behind the prompt
    image      slots of image tokens, in the order of the views
    positions  in time, height and width; `after` is the position that a next token has
    """

    slots: Slots
    answer: Bool[Tensor, "B P"]
    image: Bool[Tensor, "B P"]
    positions: Int64[Tensor, "3 B P"]
    after: Int64[Tensor, "B"]


def arrange(batch: Batch, image_id: int, grid: tuple[int, int]) -> Arrangement:
    """Widen each image item to `grid` tokens, (rows, columns), and move padding to the left.

    Raises:
        ValueError: a row has not one image item for each of its views, or text in several turns.
    """
    if batch.text_turn is not None and bool(batch.text_turn.any()):
        raise ValueError("Qwen2-VL reads one text in a row, but this batch has turns that do not see each other.")
    order = torch.argsort(batch.text_valid.to(torch.uint8), dim=1, stable=True)
    parts = (batch.text_ids, batch.text_valid, batch.text_kind, batch.text_loss)
    # The slot of padding in front takes the place of images that other rows have.
    ids, valid, kind, loss = (F.pad(part.gather(1, order), (1, 0)) for part in parts)
    item = valid & (ids == image_id) & (kind == int(TextKind.PROMPT))
    views, size = len(batch.images), grid[0] * grid[1]
    count, present = item.sum(1), batch.present.sum(1)
    if bool((count != present).any()):
        raise ValueError(
            f"Texts have {count.tolist()} image items, but the rows have {present.tolist()} views; build the processor "
            f"with prompt='qwen2_vl'."
        )
    rows, length = ids.shape
    slots = length - 1 + views * (size - 1)
    repeats = torch.where(item, size, 1)
    repeats[:, 0] = (views - count) * (size - 1)
    source = torch.arange(rows * length, device=ids.device)
    source = source.repeat_interleave(repeats.flatten(), output_size=rows * slots).unflatten(0, (rows, slots))
    if batch.mixes_views:  # maybe no row has all images
        source = source[:, valid.flatten()[source].any(0)]

    def widened(part: Tensor) -> Tensor:
        return part.flatten()[source]

    # An image takes as many positions as its longer side has tokens, whatever their number.
    steps = torch.where(item, max(grid), valid.long())
    image = widened(item)
    start = widened(steps.cumsum(1) - steps)
    places = [(0, row, column) for row in range(grid[0]) for column in range(grid[1])]
    inside = torch.tensor(places, device=ids.device).T[:, (image.cumsum(1) - 1) % size]
    answer = valid & (kind != int(TextKind.PROMPT))
    return Arrangement(
        slots=Slots(
            ids=widened(ids),
            valid=widened(valid),
            kind=widened(kind),
            loss=widened(answer & loss),
            group=(widened(valid) & ~image).long(),
        ),
        answer=widened(answer),
        image=image,
        positions=start + torch.where(image, inside, 0),
        after=steps.sum(1),
    )

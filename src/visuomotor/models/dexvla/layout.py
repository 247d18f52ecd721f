"""A batch's text and images as Qwen2-VL reads them: one sequence a row, padded on the left, with M-RoPE positions.

Dimensions: B samples, L text tokens, P slots, V views.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from visuomotor.contract import Batch, TextKind

__all__ = ["Layout", "arrange"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Slots of every row: padding, then images and text as they stand in the chat, the answer last.

    answer     slots behind the prompt; target: those of them that the text loss predicts
    image      slots of image tokens, in the order of the views
    positions  in time, height and width; `after` is the position that a next token has
    """

    ids: Int64[Tensor, "B P"]
    valid: Bool[Tensor, "B P"]
    answer: Bool[Tensor, "B P"]
    target: Bool[Tensor, "B P"]
    image: Bool[Tensor, "B P"]
    positions: Int64[Tensor, "3 B P"]
    after: Int64[Tensor, "B"]


def arrange(batch: Batch, image_id: int, grid: tuple[int, int]) -> Layout:
    """Widen each image item to `grid` tokens, (rows, columns), and move padding to the left.

    Raises:
        ValueError: a row has not one image item for each view.
    """
    order = torch.argsort(batch.text_valid.to(torch.uint8), dim=1, stable=True)
    parts = (batch.text_ids, batch.text_valid, batch.text_kind, batch.text_loss)
    ids, valid, kind, loss = (part.gather(1, order) for part in parts)
    item = valid & (ids == image_id) & (kind == int(TextKind.PROMPT))
    views, size = len(batch.images), grid[0] * grid[1]
    if bool((item.sum(1) != views).any()):
        raise ValueError(
            f"Texts have {item.sum(1).tolist()} image items, but the batch has {views} views; build the processor "
            f"with prompt='qwen2_vl'."
        )
    rows, length = ids.shape
    slots = length + views * (size - 1)
    source = torch.arange(rows * length, device=ids.device)
    source = source.repeat_interleave(torch.where(item, size, 1).flatten(), output_size=rows * slots)

    def widened(part: Tensor) -> Tensor:
        return part.flatten()[source].unflatten(0, (rows, slots))

    # An image takes as many positions as its longer side has tokens, whatever their number.
    steps = torch.where(item, max(grid), valid.long())
    image = widened(item)
    start = widened(steps.cumsum(1) - steps)
    places = [(0, row, column) for row in range(grid[0]) for column in range(grid[1])]
    inside = torch.tensor(places, device=ids.device).T[:, (image.cumsum(1) - 1) % size]
    answer = valid & (kind != int(TextKind.PROMPT))
    return Layout(
        ids=widened(ids),
        valid=widened(valid),
        answer=widened(answer),
        target=widened(answer & loss),
        image=image,
        positions=start + torch.where(image, inside, 0),
        after=steps.sum(1),
    )

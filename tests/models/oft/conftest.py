"""Inputs of a tiny OpenVLA-OFT under published names: right padding, two views, a state."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.oft.reference import ACTIONS, HEADS, HORIZON, STATE, TOWER_HEADS, VIEWS
from visuomotor.models.oft import PublishedOFT, from_published

STATS: dict[str, Any] = {"q01": [-1.0, 2.0], "q99": [3.0, 2.5], "mask": [True, False]}
SHAPE: dict[str, Any] = {
    "num_heads": HEADS, "vision_heads": TOWER_HEADS, "horizon": HORIZON, "action_dim": ACTIONS, "images": VIEWS,
}  # fmt: skip
QUERIES = HORIZON * ACTIONS
Inputs = dict[str, Tensor]


def load(files: dict[str, dict[str, Tensor]], **fields: Any) -> PublishedOFT:
    parts = {name: part for name, part in files.items() if name != "state"}
    return from_published(files["state"], action_stats=STATS, **{**SHAPE, **parts, **fields}).eval()


@pytest.fixture
def make_inputs() -> Callable[..., Inputs]:
    """Prompts of 6 and 4 tokens with BOS, queries, `</s>`, padding."""

    def make(lengths: tuple[int, ...] = (6, 4)) -> Inputs:
        generator = torch.Generator().manual_seed(1)
        size = max(lengths) + QUERIES + 1
        ids = torch.randint(3, 29000, (len(lengths), size), generator=generator)
        slots, mask = torch.zeros_like(ids).bool(), torch.zeros_like(ids).bool()
        for row, length in enumerate(lengths):
            slots[row, length : length + QUERIES] = True
            mask[row, : length + QUERIES + 1] = True
            ids[row, length + QUERIES] = 2
        return {
            "input_ids": ids.where(mask, 29899),
            "attention_mask": mask.long(),
            "action_slots": slots,
            "pixel_values": torch.randn(len(lengths), 6 * VIEWS, 28, 28, generator=generator),
            "proprio": torch.randn(len(lengths), STATE, generator=generator),
        }

    return make

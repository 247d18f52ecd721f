"""A DM0 of a few thousand parameters, and batches for it."""

from collections.abc import Callable

import pytest
import torch

from visuomotor.contract import Batch, TextKind
from visuomotor.models import make_config
from visuomotor.models.dm0 import DM0

TINY = {
    "vision.image_size": 32,
    "vision.downsamples": 2,
    "vision.patch_size": 8,
    "vision.width": 16,
    "vision.layers": 1,
    "vision.heads": 2,
    "vision.mlp_width": 16,
    "llm.vocab_size": 40,
    "llm.width": 32,
    "llm.mlp_width": 32,
    "expert.width": 16,
    "expert.mlp_width": 24,
    "llm.layers": 3,
    "llm.heads": 4,
    "llm.kv_heads": 2,
    "llm.head_dim": 8,
    "action_dim": 3,
    "state_dim": 5,
    "horizon": 4,
    "noise_draws": 2,
    "action_start_id": None,
}


@pytest.fixture
def make_model() -> Callable[..., DM0]:
    def make(**overrides: object) -> DM0:
        torch.manual_seed(0)
        return DM0(make_config("dm0", "nano", **{**TINY, **overrides}))

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    def make(size: int = 3, views: int = 2, length: int = 9, seed: int = 0) -> Batch:
        """Rows hold a prompt, a sub-task from slot 3, action tokens from slot 5; row 1 is two tokens shorter."""
        generator = torch.Generator().manual_seed(seed)
        kind = torch.full((size, length), int(TextKind.PROMPT))
        kind[:, 3:5], kind[:, 5:] = TextKind.SUBTASK, TextKind.ACTION
        valid = torch.ones(size, length, dtype=torch.bool)
        valid[1:2, -2:] = False
        kind[~valid] = TextKind.PAD
        images = {
            f"camera{i}": torch.randint(0, 256, (size, 32, 32, 3), generator=generator, dtype=torch.uint8)
            for i in range(views)
        }
        return Batch(
            images=images,
            image_valid=torch.ones(size, views, dtype=torch.bool),
            text_ids=torch.randint(3, 40, (size, length), generator=generator),
            text_valid=valid,
            text_kind=kind,
            text_loss=valid & (torch.arange(length) >= 3),
            state=torch.randn(size, 5, generator=generator),
            actions=torch.randn(size, 4, 3, generator=generator),
            action_valid=torch.ones(size, 4, 3, dtype=torch.bool),
            embodiment=torch.zeros(size, dtype=torch.long),
            source=torch.arange(size) % 2,
        )

    return make

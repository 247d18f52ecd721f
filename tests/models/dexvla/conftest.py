"""A DexVLA of a few thousand parameters with random weights, and batches for it."""

from collections.abc import Callable

import pytest
import torch

from tests.heads.conftest import make_inputs, make_robots, make_scaledp, make_unet, randomise
from visuomotor.contract import Batch, TextKind
from visuomotor.models import make_config
from visuomotor.models.dexvla import DexVLA, UNetConfig

__all__ = ["make_inputs", "make_robots", "make_scaledp", "make_unet"]  # fixtures

IMAGE_ID, END_ID = 1, 2
TINY_VLA = {
    "image_height": 24,
    "image_width": 32,
    "vision.patch_size": 8,
    "vision.width": 16,
    "vision.layers": 2,
    "vision.heads": 2,
    "llm.vocab_size": 40,
    "llm.width": 16,
    "llm.mlp_width": 24,
    "llm.layers": 2,
    "llm.heads": 2,
    "llm.kv_heads": 1,
    "llm.mrope_sections": (2, 1, 1),
    "initializer_range": 0.2,
    "head.action_dim": 3,
    "head.state_dim": 2,
    "head.horizon": 4,
    "head.width": 16,
    "head.depth": 2,
    "head.heads": 2,
    "head.noise_draws": 2,
}

TINY_UNET_HEAD = UNetConfig(
    action_dim=3, state_dim=2, horizon=4, channels=(8, 16), step_width=8, noise_draws=2, shared_time=False
)


@pytest.fixture
def make_dexvla() -> Callable[..., DexVLA]:
    def make(**overrides: object) -> DexVLA:
        sizes = {**TINY_VLA, **overrides}
        if isinstance(sizes.get("head"), UNetConfig):
            sizes = {name: value for name, value in sizes.items() if not name.startswith("head.")}
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = DexVLA(make_config("dexvla", "nano", **sizes)).eval()
        randomise(model.head.denoiser)
        for linear in (model.head.film.scale_fc, model.head.film.shift_fc):
            randomise(linear)
        return model

    return make


@pytest.fixture
def dexvla(make_dexvla: Callable[..., DexVLA]) -> DexVLA:
    """A DexVLA of a few thousand parameters, whose FiLM is no identity."""
    return make_dexvla()


def make_texts(
    texts: list[tuple[list[int], list[int]]], views: int = 2, present: list[list[bool]] | None = None, **fields: object
) -> Batch:
    """A batch of (prompt, answer) ids, padded right as data is.

    An image item for each of `views` stands in front of each prompt, or of those that a row has of them (`present`).
    """
    generator = torch.Generator().manual_seed(2)
    longest, rows = max(len(p) + len(a) + 3 * views for p, a in texts), len(texts)
    ids, valid, kind = (torch.zeros(rows, longest, dtype=torch.int64) for _ in range(3))
    for row, (prompt, answer) in enumerate(texts):
        items = views if present is None else sum(present[row])
        whole = torch.tensor([3, IMAGE_ID, 4] * items + prompt + answer)
        ids[row, : len(whole)], valid[row, : len(whole)] = whole, 1
        kind[row, : len(whole)] = int(TextKind.PROMPT)
        kind[row, len(whole) - len(answer) : len(whole)] = int(TextKind.SUBTASK)
    images = torch.randint(256, (views, rows, 30, 40, 3), dtype=torch.uint8, generator=generator)
    data = {
        "images": {f"view{i}": image for i, image in enumerate(images)},
        "image_valid": torch.tensor(present or [[True] * views] * rows),
        "text_ids": ids,
        "text_valid": valid.bool(),
        "text_kind": kind,
        "text_loss": kind == int(TextKind.SUBTASK),
        "state": torch.randn(rows, 2, generator=generator),
        "actions": torch.randn(rows, 4, 3, generator=generator).clamp(-1, 1),
        "action_valid": torch.ones(rows, 4, 3, dtype=torch.bool),
        "embodiment": torch.zeros(rows, dtype=torch.int64),
        "source": torch.zeros(rows, dtype=torch.int64),
    }
    return Batch(**{**data, **fields})


@pytest.fixture
def batch() -> Batch:
    """Three rows of different lengths; the last one's answer is the end of the turn alone."""
    return make_texts([([5, 6, 7], [8, 9, END_ID]), ([5, 6, 7, 10, 11], [12, END_ID]), ([5], [END_ID])])

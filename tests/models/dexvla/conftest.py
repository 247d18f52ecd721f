"""Heads of a few thousand parameters with random weights, and inputs for them."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from visuomotor.contract import Batch, TextKind
from visuomotor.models import make_config
from visuomotor.models.dexvla import DexVLA, ScaleDP, ScaleDPConfig, UNet, UNetConfig

IMAGE_ID, END_ID = 1, 2

TINY = {
    "action_dim": 3,
    "state_dim": 2,
    "cond_dim": 12,
    "horizon": 4,
    "width": 16,
    "depth": 2,
    "heads": 2,
    "combine_width": 10,
    "time_size": 8,
}
TINY_UNET = {
    "action_dim": 3,
    "state_dim": 2,
    "cond_dim": 12,
    "horizon": 8,
    "step_width": 6,
    "channels": (16, 24, 32),
    "kernel": 3,
    "groups": 4,
}
ROBOTS = {
    "action_dim": 5,
    "state_dim": 4,
    "embodiments": ("arm", "hand", "bimanual"),
    "action_dims": (3, 2, 5),
    "state_dims": (2, 0, 4),
}


@dataclass(frozen=True)
class Inputs:
    x: Tensor
    t: Tensor
    cond: Tensor
    state: Tensor

    def all(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.x, self.t, self.cond, self.state


@torch.no_grad()
def randomise(head: nn.Module, deviation: float = 0.2) -> None:
    """Weights without the zeros of the initialisation."""
    generator = torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        parameter.normal_(0, deviation, generator=generator)


@pytest.fixture
def make_scaledp() -> Callable[..., ScaleDP]:
    def make(**overrides: object) -> ScaleDP:
        head = ScaleDP(ScaleDPConfig(**{**TINY, **overrides}))
        randomise(head)
        return head

    return make


@pytest.fixture
def make_robots(make_scaledp: Callable[..., ScaleDP]) -> Callable[..., ScaleDP]:
    """A head for three robots of different widths."""
    return lambda **overrides: make_scaledp(**{**ROBOTS, **overrides})


@pytest.fixture
def make_unet() -> Callable[..., UNet]:
    def make(**overrides: object) -> UNet:
        head = UNet(UNetConfig(**{**TINY_UNET, **overrides}))
        randomise(head)
        return head

    return make


@pytest.fixture
def make_inputs() -> Callable[..., Inputs]:
    def make(head: ScaleDP | UNet, rows: int = 3, tokens: int = 1, seed: int = 1) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        config = head.config

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        return Inputs(
            x=draw(rows, config.horizon, config.action_dim),
            t=torch.randint(100, (rows,), generator=generator),
            cond=draw(rows, tokens, config.cond_dim),
            state=draw(rows, config.state_dim),
        )

    return make


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
        randomise(model.policy_head)
        for linear in (model.reasoning_film.scale_fc, model.reasoning_film.shift_fc):
            randomise(linear)
        return model

    return make


@pytest.fixture
def dexvla(make_dexvla: Callable[..., DexVLA]) -> DexVLA:
    """A DexVLA of a few thousand parameters, whose FiLM is no identity."""
    return make_dexvla()


def make_texts(texts: list[tuple[list[int], list[int]]], views: int = 2, **fields: object) -> Batch:
    """A batch of (prompt, answer) ids, with `views` image items in front of each prompt, padded right as data is."""
    generator = torch.Generator().manual_seed(2)
    longest, rows = max(len(p) + len(a) + 3 * views for p, a in texts), len(texts)
    ids, valid, kind = (torch.zeros(rows, longest, dtype=torch.int64) for _ in range(3))
    for row, (prompt, answer) in enumerate(texts):
        whole = torch.tensor([3, IMAGE_ID, 4] * views + prompt + answer)
        ids[row, : len(whole)], valid[row, : len(whole)] = whole, 1
        kind[row, : len(whole)] = int(TextKind.PROMPT)
        kind[row, len(whole) - len(answer) : len(whole)] = int(TextKind.SUBTASK)
    images = torch.randint(256, (views, rows, 30, 40, 3), dtype=torch.uint8, generator=generator)
    data = {
        "images": {f"view{i}": image for i, image in enumerate(images)},
        "image_valid": torch.ones(rows, views, dtype=torch.bool),
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

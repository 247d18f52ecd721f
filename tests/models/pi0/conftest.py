"""Inputs of a tiny pi0 and pi0.5: masked views, and text with padding in its middle."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.pi0.reference import HEAD_DIM, TOWER_HEADS

DIMENSIONS: dict[str, Any] = {"vision_heads": TOWER_HEADS, "head_dim": HEAD_DIM, "chunk_size": 6}
Inputs = dict[str, Any]


@pytest.fixture
def make_inputs() -> Callable[[bool], Inputs]:
    def make(adaptive: bool) -> Inputs:
        generator = torch.Generator().manual_seed(1)
        text: list[Tensor] = [
            torch.tensor([1] * 7),
            torch.tensor([1, 1, 0, 1, 0, 1, 0]),
            torch.tensor([0, 0, 1, 1, 1, 1, 0]),
        ]
        return {
            "images": 2 * torch.rand(3, 3, 3, 32, 32, generator=generator) - 1,
            "view_mask": torch.tensor([[True, True, False], [True, False, True], [True, True, True]]),
            "ids": torch.randint(40, (3, 7), generator=generator),
            "text_mask": torch.stack(text).bool(),
            "state": None if adaptive else torch.randn(3, 5, generator=generator),
        }

    return make


@pytest.fixture(params=[False, True], ids=["pi0", "pi05"])
def adaptive(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def inputs(adaptive: bool, make_inputs: Callable[[bool], Inputs]) -> Inputs:
    return make_inputs(adaptive)


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def time() -> Tensor:
    return torch.tensor([0.9, 0.05, 0.4])

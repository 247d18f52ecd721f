"""Tiny DAM-VLAs beside the tiny CogACTs of their own tests, and batches with weights and labels."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.models.cogact.conftest import TINY, make_batch
from visuomotor.contract import Batch
from visuomotor.data.weighting import chunk_weight
from visuomotor.models import make_config
from visuomotor.models.cogact import CogACT
from visuomotor.models.damvla import DAMVLA

__all__ = ["make_batch", "make_cogact", "make_damvla", "weighed"]

SMALL = {**TINY, "llm.layers": 3, "num_views": 1}


def lively(model: nn.Module) -> None:
    """Fresh heads predict zeros and ignore visual tokens; these do not."""
    for name, parameter in model.named_parameters():
        if "final_layer.linear.weight" in name or "visual_linear.weight" in name:
            nn.init.normal_(parameter, std=0.2)


@pytest.fixture
def make_cogact() -> Callable[..., CogACT]:
    def make(**overrides: object) -> CogACT:
        torch.manual_seed(1)
        model = CogACT(make_config("cogact", "nano", **{**SMALL, **overrides}))
        lively(model)
        return model

    return make


@pytest.fixture
def make_damvla() -> Callable[..., DAMVLA]:
    def make(*, fresh: bool = False, **overrides: object) -> DAMVLA:
        torch.manual_seed(0)
        model = DAMVLA(make_config("damvla", "nano", **{**SMALL, **overrides}))
        if not fresh:
            lively(model)
        return model

    return make


@pytest.fixture
def weighed(make_batch: Callable[..., Batch]) -> Callable[..., Batch]:
    """A batch whose row 0 is all movement, row 1 all manipulation, row 2 in between and over after three steps."""

    def make(views: int = 1) -> Batch:
        batch = make_batch(views=views)
        assert batch.action_valid is not None
        trajectory = torch.tensor([[0.0] * 4, [1.0] * 4, [0.2, 0.4, 0.8, 0.0]])
        chunk = torch.from_numpy(chunk_weight(4, 0.8)).repeat(3, 1)
        batch.action_valid[2, 3:] = False
        chunk[2, 3:] = 0
        weights = {"trajectory": trajectory, "chunk": chunk}
        return replace(batch, weights=weights, labels={"router": torch.tensor([0.0, 1.0, 0.0])})

    return make

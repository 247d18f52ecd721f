"""What the backbone of Stage 1 refuses, and what absent views cost; tests/models/dexvla has the rest."""

from dataclasses import replace

import pytest
import torch

from tests.models.dexvla.test_expert import make, make_batch
from visuomotor.backbones.base import ContextRequest


@pytest.mark.parametrize(
    "request_", [ContextRequest(keys=True), ContextRequest(layers=(-1,)), ContextRequest(features=("prefix",))]
)
def test_it_gives_its_condition_alone(request_: ContextRequest) -> None:
    with pytest.raises(ValueError, match="its feature 'condition' alone"):
        make().backbone.encode(make_batch((0, 0)), request_)


def test_views_that_a_row_lacks_are_not_computed() -> None:
    backbone, batch = make().backbone, make_batch((0, 0, 0))
    batch = replace(batch, image_valid=torch.tensor([[True, False], [True, False], [False, True]]))
    sizes = {}
    for role, encoder in backbone.encoders.items():
        encoder.register_forward_pre_hook(lambda _, given, role=role: sizes.update({role: len(given[0])}))
    context = backbone.encode(batch, ContextRequest(features=("condition",)))
    assert sizes == {"scene": 2, "wrist": 1}
    assert context.features["condition"].shape == (3, 1, 12)

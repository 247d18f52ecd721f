"""Rows of one batch: other views, no actions, weights of steps; and chunks that go on from a running one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tests.models.cogact.conftest import rows_of
from visuomotor.contract import Batch
from visuomotor.models.cogact import CogACT
from visuomotor.nn.guidance import Guidance, prefix_weights

Make = Callable[..., CogACT]
MakeBatch = Callable[..., Batch]
NOISE = torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(1))
TIME = torch.arange(6).view(3, 2) * 17


def diffusion(model: CogACT, batch: Batch) -> torch.Tensor:
    """Sums by row."""
    draws = {"noise": NOISE[: batch.size], "time": TIME[: batch.size]}
    rows = model.loss(batch, **draws, generator=torch.Generator().manual_seed(0)).terms["diffusion"].rows
    assert rows is not None
    return rows


def test_every_weight_of_a_step_multiplies(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    plain = diffusion(model, batch)
    for name in ("trajectory", "chunk", "emphasis"):
        twice = diffusion(model, replace(batch, weights={name: torch.full((3, 4), 2.0)}))
        torch.testing.assert_close(twice, plain * torch.tensor([[2.0], [1.0]]))
    still = torch.ones(3, 4)
    still[1] = 0
    found = diffusion(model, replace(batch, weights={"trajectory": still}))
    assert found[0, 1] == 0
    assert torch.equal(found[0, [0, 2]], plain[0, [0, 2]])


def test_a_row_without_actions_costs_the_head_nothing(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    assert batch.action_valid is not None
    partly = batch.action_valid.clone()
    partly[1] = False
    seen: list[int] = []
    model.head.model.blocks[0].register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    whole, found = diffusion(model, batch), diffusion(model, replace(batch, action_valid=partly))
    assert seen == [6, 4]
    torch.testing.assert_close(found[:, [0, 2]], whole[:, [0, 2]])
    assert not found[:, 1].any()


def mixed(batch: Batch) -> Batch:
    """Row 0 has both views, row 1 the second alone, row 2 the first alone; pixels of the others are noise."""
    return replace(batch, image_valid=torch.tensor([[True, True], [False, True], [True, False]]))


def test_rows_with_other_views_are_as_if_each_were_alone(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), mixed(make_batch(views=2))
    together = model.sample(batch, noise=NOISE).actions
    for row in range(3):
        alone = rows_of(batch, row)
        assert len(alone.images) == (2 if row == 0 else 1)
        chunk = model.sample(alone, noise=NOISE[row : row + 1]).actions
        torch.testing.assert_close(chunk[0], together[row], atol=1e-4, rtol=1e-4)
    other = replace(batch, images={role: image.clone() for role, image in batch.images.items()})
    other.images["camera0"][1] = 255 - other.images["camera0"][1]
    assert torch.equal(model.sample(other, noise=NOISE).actions, together)
    no_images = replace(rows_of(batch, 0), images={}, image_valid=torch.zeros(1, 2, dtype=torch.bool))
    assert model.sample(no_images, noise=NOISE[:1]).actions.isfinite().all()


def test_losses_of_rows_with_other_views_are_those_of_the_rows(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(**{"action_model.unconditional_dropout": 0.0}), mixed(make_batch(views=2))
    together = diffusion(model, batch)
    alone = [rows_of(batch, row) for row in range(3)]
    for row, one in enumerate(alone):
        losses = model.loss(one, noise=NOISE[row : row + 1], time=TIME[row : row + 1])
        torch.testing.assert_close(losses.terms["diffusion"].sum, together[0, row], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["guided", "identity"])
def test_a_chunk_goes_on_from_the_one_that_runs(make_model: Make, make_batch: MakeBatch, kind: str) -> None:
    model, batch = make_model(), make_batch()
    assert model.chunk_guidance == ("guided", "identity")
    free = model.sample(batch, noise=NOISE).actions
    weights = prefix_weights(2, 2, 4)[None, :, None].repeat(3, 1, 3)
    weights[1] = 0
    guidance = Guidance(target=torch.full((3, 4, 3), 0.5), weights=weights, kind=kind)
    tied = model.sample(batch, noise=NOISE, chunk_guidance=guidance).actions
    torch.testing.assert_close(tied[1], free[1], atol=1e-3, rtol=1e-3)  # a row without weights is free
    gap = (tied[:, :, :2] - 0.5).abs().mean((1, 2, 3)) / (free[:, :, :2] - 0.5).abs().mean((1, 2, 3))
    assert (gap[[0, 2]] < 0.7).all()
    prefix = Guidance(target=guidance.target, weights=weights, kind="prefix")
    with pytest.raises(ValueError, match="takes no 'prefix' guidance; it takes guided, identity"):
        model.sample(batch, chunk_guidance=prefix)

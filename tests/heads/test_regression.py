"""The regression head on states that are given."""

from dataclasses import replace

import pytest
import torch

from visuomotor.backbones.base import Context
from visuomotor.heads.base import Targets
from visuomotor.heads.regression import L1RegressionConfig, L1RegressionHead

CONFIG = L1RegressionConfig(context_width=6, hidden=10, horizon=4, action_dim=3, state_dim=5)


@pytest.fixture
def context() -> Context:
    generator = torch.Generator().manual_seed(0)
    zeros = torch.zeros(2, 1, dtype=torch.long)
    return Context(
        valid=zeros.bool(), labels=zeros, state=torch.zeros(2, 5), embodiment=zeros[:, 0],
        states={-1: torch.randn(2, 12, 6, generator=generator)},
    )  # fmt: skip


@pytest.fixture
def targets() -> Targets:
    generator = torch.Generator().manual_seed(1)
    valid = torch.ones(2, 4, 3, dtype=torch.bool)
    valid[1, 2:] = False
    valid[0, :, 2] = False  # a robot of two dimensions
    return Targets(actions=torch.randn(2, 4, 3, generator=generator), valid=valid, weights={}, labels={})


def build(config: L1RegressionConfig = CONFIG) -> L1RegressionHead:
    torch.manual_seed(0)
    return L1RegressionHead(config)


def test_states_of_one_action_stand_side_by_side(context: Context) -> None:
    head = build()
    rows = [head.model(context.states[-1][:, 3 * t : 3 * t + 3].flatten(1)[:, None])[:, 0] for t in range(4)]
    torch.testing.assert_close(head.predict(context), torch.stack(rows, dim=1))


def test_the_loss_is_the_mean_absolute_error_of_valid_entries(context: Context, targets: Targets) -> None:
    head = build()
    errors = (head.predict(context) - targets.actions).abs().detach()
    weights = torch.rand(2, 4, generator=torch.Generator().manual_seed(2))
    weighed = replace(targets, weights={"emphasis": weights})

    def loss(head: L1RegressionHead, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
        term = head.losses(context, targets, head.draw(targets, None, None, None))["l1"]
        return term.sum.detach(), term.count

    torch.testing.assert_close(loss(head, targets), (errors[targets.valid].sum(), targets.valid.sum().float()))
    torch.testing.assert_close(loss(head, weighed)[0], (errors * weights[..., None])[targets.valid].sum())
    head.config = replace(CONFIG, mask_padded=False)
    torch.testing.assert_close(loss(head, targets), (errors.sum(), torch.tensor(24.0)))


@torch.no_grad()
def test_samples_are_one_chunk_whatever_the_noise(context: Context) -> None:
    head = build()
    noise = torch.randn(2, 3, 4, 3)
    actions = head.sample(context, noise, steps=7).actions
    assert torch.equal(actions, head.predict(context)[:, None].expand(2, 3, 4, 3))
    actions += 1  # the samples share no memory
    assert torch.equal(actions[:, 0], actions[:, 1])


def test_dimensions_are_checked() -> None:
    assert build(replace(CONFIG, state_dim=0)).inserting() == []
    with pytest.raises(ValueError, match="horizon is 0"):
        replace(CONFIG, horizon=0)
    with pytest.raises(ValueError, match="blocks is -1"):
        replace(CONFIG, blocks=-1)

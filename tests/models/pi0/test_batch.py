"""What both kinds have in common with other models, where their own parts are at work: state block, adaptive norms."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.backbones.test_prefix_attention import PROMPT, TINY, text_batch
from visuomotor.contract import Batch
from visuomotor.models import make_config
from visuomotor.models.pi0 import Pi0

Make = Callable[..., Pi0]


@pytest.fixture
def make_model(adaptive: bool) -> Make:
    def make(**fields: Any) -> Pi0:
        torch.manual_seed(0)
        model = Pi0(make_config("pi0", "nano-pi05" if adaptive else "nano", **{**TINY, **fields}))
        for parameter in model.parameters():  # adaptive norms begin with closed gates
            torch.nn.init.normal_(parameter, std=0.3)
        return model

    return make


@pytest.fixture
def batch() -> Batch:
    made = text_batch([PROMPT] * 5 + [6] * 2)
    made.text_valid[1, 3:] = False
    made.text_loss[1, 3:] = False
    return made


def gradients(model: Pi0) -> dict[str, torch.Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


def test_velocity_beside_a_cache_is_that_of_training(make_model: Make, batch: Batch) -> None:
    model = make_model()
    noise, time = torch.randn(2, 2, 4, 3), torch.tensor([[0.3, 0.9], [0.5, 0.1]])
    flow = model.loss(batch, noise=noise, time=time).terms["flow"]
    with torch.no_grad():
        context = model.encode(batch, room=model.head.room(2))
        assert batch.actions is not None
        x = time[..., None, None] * noise + (1 - time[..., None, None]) * batch.actions[:, None]
        velocity = model.denoise(context, x, time)
        expected = (velocity - (noise - batch.actions[:, None])).square().sum()
    torch.testing.assert_close(flow.sum, expected, rtol=1e-5, atol=1e-5)


def test_draws_beside_each_other_equal_single_ones(make_model: Make, batch: Batch) -> None:
    model = make_model()
    noise, time = torch.randn(2, 2, 4, 3), torch.tensor([[0.3, 0.9], [0.5, 0.1]])
    both = model.loss(batch, noise=noise, time=time).terms["flow"].sum
    single = [model.loss(batch, noise=noise[:, k : k + 1], time=time[:, k : k + 1]).terms["flow"].sum for k in (0, 1)]
    torch.testing.assert_close(both, single[0] + single[1], rtol=1e-5, atol=1e-5)


def test_decoupling_changes_gradients_of_the_backbone_alone(make_model: Make, batch: Batch) -> None:
    noise, time = torch.randn(2, 2, 4, 3), torch.tensor([[0.3, 0.9], [0.5, 0.1]])
    models = [make_model(gradient_decoupling=on) for on in (False, True)]
    flows = [model.loss(batch, noise=noise, time=time).terms["flow"].sum for model in models]
    assert torch.equal(*flows)
    for flow in flows:
        flow.backward()
    coupled, decoupled = map(gradients, models)
    for name, gradient in decoupled.items():
        if name.startswith("backbone."):
            assert gradient is None
        else:
            expected = coupled[name]
            assert gradient is not None
            assert expected is not None
            assert torch.equal(gradient, expected)
    assert any(g is not None and g.any() for n, g in coupled.items() if n.startswith("backbone.llm."))


def test_given_actions_have_their_own_flow_time(make_model: Make, batch: Batch) -> None:
    model = make_model(prefix_delay=3)
    losses = model.loss(batch, generator=torch.Generator().manual_seed(0))
    assert losses.terms["flow"].count < 2 * 2 * 4 * 3
    losses.total.backward()
    assert all(g is None or g.isfinite().all() for g in gradients(model).values())


@torch.no_grad()
def test_the_state_reaches_the_actions_of_pi0_alone(make_model: Make, batch: Batch, adaptive: bool) -> None:
    model = make_model().eval()
    noise = torch.randn(2, 1, 4, 3)
    actions = [model.sample(replace(batch, state=s), noise=noise).actions for s in (batch.state, batch.state + 1)]
    assert torch.equal(*actions) == adaptive


def test_every_parameter_learns(make_model: Make, batch: Batch) -> None:
    model = make_model()
    model.loss(batch, generator=torch.Generator().manual_seed(0)).total.backward()
    still = {name for name, gradient in gradients(model).items() if gradient is None or not gradient.any()}
    assert not still


def test_text_of_the_layout_follows_the_state(adaptive: bool) -> None:
    config = make_config("pi0", "nano-pi05" if adaptive else "nano")
    assert config.prompt == ("pi05" if adaptive else "pi0")

from collections.abc import Callable

import diffusers
import pytest
import torch
from torch import Tensor

from visuomotor.heads.diffusion import DiffusionHead
from visuomotor.heads.diffusion_config import HeadConfig, ScaleDPConfig
from visuomotor.heads.scaledp import ScaleDP


class Echo(DiffusionHead):
    """Predicts its input, and keeps what it was given."""

    def __init__(self, **fields: object) -> None:
        super().__init__(HeadConfig(action_dim=3, state_dim=2, cond_dim=4, horizon=5, **fields))

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, state: Tensor, embodiment: Tensor | None = None) -> Tensor:
        self.given = (x, t, cond, state, embodiment)
        return x


@pytest.fixture
def data() -> dict[str, Tensor]:
    torch.manual_seed(0)
    valid = torch.ones(4, 5, 3, dtype=torch.bool)
    valid[1, 3:] = False  # the end of an episode
    valid[2] = False  # no actions at all
    return {
        "actions": torch.randn(4, 5, 3), "valid": valid, "cond": torch.randn(4, 1, 4), "state": torch.randn(4, 2),
    }  # fmt: skip


@pytest.mark.parametrize(("mean_over", "count"), [("valid", 2 * (15 + 9 + 0 + 15)), ("all", 2 * 3 * 15)])
def test_the_loss_is_over_what_the_head_was_given(data: dict, mean_over: str, count: int) -> None:
    head, oracle = Echo(mean_over=mean_over), diffusers.DDIMScheduler(100, beta_schedule="squaredcos_cap_v2")
    noise, time = torch.randn(4, 2, 5, 3), torch.tensor([[0, 99], [10, 20], [30, 40], [50, 60]])
    term = head.loss(**data, noise=noise, time=time, weight=0.5)
    x = oracle.add_noise(data["actions"].repeat_interleave(2, 0), noise.flatten(0, 1), time.flatten())
    torch.testing.assert_close(head.given[0], x)
    assert head.given[1].tolist() == time.flatten().tolist()
    torch.testing.assert_close(head.given[2], data["cond"].repeat_interleave(2, 0))
    error = (x.unflatten(0, (4, 2)) - noise).square() * data["valid"][:, None]
    torch.testing.assert_close(term.sum, error.sum())
    assert (term.count.item(), term.weight) == (count, 0.5)
    assert term.rows is not None
    torch.testing.assert_close(term.rows, torch.stack([error.sum((1, 2, 3)), term.rows[1]]))
    assert term.rows[1].sum() == count
    assert term.rows[1, 2] == 0


def test_the_published_mean_is_over_padding_too(data: dict) -> None:
    """(prediction - noise)^2 (1 - is_pad), averaged over all elements: a fresh head predicts zero."""
    config = ScaleDPConfig(
        action_dim=3, state_dim=2, cond_dim=4, horizon=5, width=8, depth=1, heads=1, mean_over="all", combine_width=4
    )
    del data["valid"]
    is_pad = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    noise = torch.randn(4, 1, 5, 3)
    term = ScaleDP(config).loss(**data, valid=(is_pad == 0)[..., None].expand(-1, -1, 3), noise=noise)
    expected = (noise[:, 0].square() * (1 - is_pad)[..., None]).mean()
    torch.testing.assert_close(term.sum / term.count, expected)


def test_noise_draws_share_one_time_for_each_sample(data: dict) -> None:
    head = Echo(noise_draws=3)
    data = {name: tensor.repeat(16, *[1] * (tensor.ndim - 1)) for name, tensor in data.items()}
    first = head.loss(**data, generator=torch.Generator().manual_seed(5))
    x, time, *_ = head.given
    assert x.shape == (3 * 64, 5, 3)
    time = time.unflatten(0, (64, 3))
    assert (time == time[:, :1]).all()
    assert 0 <= time.min() < 20
    assert 80 < time.max() < 100
    own = Echo(noise_draws=3, shared_time=False)
    own.loss(**data)
    assert (own.given[1].unflatten(0, (64, 3)).diff(dim=1) != 0).float().mean() > 0.9
    again = head.loss(**data, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(first.sum, again.sum, atol=0, rtol=0)
    other = head.loss(**data, generator=torch.Generator().manual_seed(6))
    assert first.sum != other.sum


@pytest.mark.parametrize("kind", ["scaledp", "unet"])
def test_sampling_compiles_without_a_graph_break(
    kind: str, make_scaledp: Callable, make_unet: Callable, make_inputs: Callable
) -> None:
    head = make_scaledp(depth=1) if kind == "scaledp" else make_unet(channels=(8,))
    inputs = make_inputs(head)
    torch._dynamo.reset()
    compiled = torch.compile(head.sample, fullgraph=True, backend="eager", dynamic=False)
    given = (inputs.cond, inputs.state, inputs.x, 2)
    torch.testing.assert_close(compiled(*given), head.sample(*given), atol=1e-5, rtol=1e-5)

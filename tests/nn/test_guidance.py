"""Real-time chunking's guidance, against the closed form of a linear model and against an integration by hand."""

import math

import pytest
import torch
from torch import Tensor

from visuomotor.nn.diffusion import Schedule, ddim, squared_cosine
from visuomotor.nn.flow import euler, euler_times
from visuomotor.nn.guidance import Guidance, guide, guide_noise, prefix_weights

T, A = 4, 2


@pytest.fixture
def linear() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(T * A, T * A, generator=generator).double() / 3, torch.randn(T * A, generator=generator).double()


def field_of(matrix: Tensor, offset: Tensor):
    return lambda x, t: (x.flatten(2) @ matrix.T + offset).unflatten(2, (T, A))


def test_weights_are_those_of_the_paper() -> None:
    found = prefix_weights(2, 6, 8)
    torch.testing.assert_close(found, torch.tensor([1, 1, 0.571, 0.287, 0.114, 0.026, 0, 0]), atol=6e-4, rtol=0)
    for i in range(2, 6):
        c = (6 - i) / 5
        assert float(found[i]) == pytest.approx(c * (math.exp(c) - 1) / (math.e - 1), rel=1e-6)
    assert prefix_weights(0, 0, 3).tolist() == [0, 0, 0]
    assert prefix_weights(3, 3, 3).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="delay"):
        prefix_weights(5, 4, 8)


@pytest.mark.parametrize("kind", ["guided", "identity"])
def test_a_linear_model_has_a_closed_form(kind: str, linear: tuple[Tensor, Tensor]) -> None:
    """In the paper's own terms: tau, v towards the data, A_1 = x + (1 - tau) v, J = I + (1 - tau) M."""
    matrix, offset = linear
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 1, T, A, generator=generator).double()
    target = torch.randn(1, T, A, generator=generator).double()
    weights = prefix_weights(1, 3, T).double()[None, :, None].expand(1, T, A)
    field, _ = guide(field_of(-matrix, -offset), x, Guidance(target=target, weights=weights, kind=kind))
    for tau in (0.0, 0.2, 0.5, 0.9):
        v = matrix @ x.flatten() + offset
        jacobian = torch.eye(T * A).double() + (1 - tau) * matrix if kind == "guided" else torch.eye(T * A).double()
        error = weights.flatten() * (target.flatten() - (x.flatten() + (1 - tau) * v))
        r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
        factor = 5.0 if tau == 0 else min(5.0, (1 - tau) / (tau * r2))
        expected = v + factor * jacobian.T @ error
        found = -field(x, torch.full((1, 1), 1 - tau).double()).flatten()
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad


def test_guidance_brings_the_tied_actions_to_the_plan(linear: tuple[Tensor, Tensor]) -> None:
    matrix, offset = linear
    noise = torch.randn(2, 3, T, A, generator=torch.Generator().manual_seed(2)).double()
    target = torch.full((2, T, A), 0.7).double()
    weights = prefix_weights(2, 2, T).double()[None, :, None].repeat(2, 1, A)
    weights[1] = 0  # the second row is free
    free = euler(field_of(matrix, offset), noise, 20)
    field, start = guide(field_of(matrix, offset), noise, Guidance(target=target, weights=weights))
    tied = euler(field, start, 20)
    assert (tied[0, :, :2] - 0.7).abs().max() < 0.2 * (free[0, :, :2] - 0.7).abs().max()
    torch.testing.assert_close(tied[1], free[1])


def test_a_given_prefix_stays_and_is_told_to_be_clean() -> None:
    told = []

    def field(x: Tensor, t: Tensor) -> Tensor:
        told.append((x.clone(), t))
        return torch.ones_like(x)

    noise = torch.randn(2, 1, T, A)
    target = torch.randn(2, T, A)
    weights = torch.zeros(2, T, A)
    weights[0, :2] = 1  # row 1 has no prefix
    chosen, start = guide(field, noise, Guidance(target=target, weights=weights, kind="prefix"))
    found = euler(chosen, start, 5)
    assert torch.equal(found[0, 0, :2], target[0, :2])
    torch.testing.assert_close(found[0, 0, 2:], noise[0, 0, 2:] - 1)
    torch.testing.assert_close(found[1], noise[1] - 1)
    for (x, t), expected in zip(told, euler_times(5), strict=True):
        assert torch.equal(x[0, 0, :2], target[0, :2])
        assert t[0, 0].tolist() == [0, 0, expected, expected]
        assert t[1, 0].tolist() == [expected] * T


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="Unknown guidance"):
        Guidance(target=torch.zeros(1, T, A), weights=torch.zeros(1, T, A), kind="soft")


@pytest.mark.parametrize("kind", ["guided", "identity"])
def test_of_two_ways_the_one_that_runs_is_taken(kind: str) -> None:
    """Data are chunks of all 1 or all -1. Drawn freely, half are either; guided, nearly all are the running one."""

    def field(x: Tensor, t: Tensor) -> Tensor:
        time = t[..., None, None]
        expected = torch.tanh((1 - time) * x.sum((-2, -1), keepdim=True) / time.square()).expand_as(x)
        return (x - expected) / time

    noise = torch.randn(1, 200, 8, 1, generator=torch.Generator().manual_seed(0))
    free = euler(field, noise, 10)
    torch.testing.assert_close(free.abs(), torch.ones_like(free), atol=1e-3, rtol=0)
    assert 0.3 < (free[..., 0, 0] > 0).float().mean() < 0.7
    weights = prefix_weights(2, 5, 8)[None, :, None]
    chosen, start = guide(field, noise, Guidance(target=torch.full((1, 8, 1), -1.0), weights=weights, kind=kind))
    guided = euler(chosen, start, 10)
    assert (guided[..., 0] < 0).float().mean() > 0.97  # also behind the actions that are tied


def noise_predictor(schedule: Schedule):
    """The exact noise in x where data are chunks of all 1 or all -1."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        signal, sigma = schedule.scales(t, x)
        data = torch.tanh(signal * x.sum((-2, -1), keepdim=True) / sigma.square()).expand_as(x)
        return (x - signal * data) / sigma

    return predict


@pytest.mark.parametrize("kind", ["guided", "identity"])
def test_a_noise_predictor_is_guided_as_the_flow_that_it_is(kind: str) -> None:
    """One step of DDIM with the guided noise is one Euler step of `guide` on the flow of the same posterior."""
    generator = torch.Generator().manual_seed(3)
    schedule = Schedule(squared_cosine(100).alpha_bar.double())
    x = torch.randn(2 * 3, T, A, generator=generator).double()
    target = torch.randn(2, T, A, generator=generator).double()
    weights = prefix_weights(1, 3, T).double()[None, :, None].expand(2, T, A)
    guidance = Guidance(target=target, weights=weights, kind=kind)

    def flow(x: Tensor, t: Tensor) -> Tensor:
        time = t[..., None, None]
        data = torch.tanh((1 - time) * x.sum((-2, -1), keepdim=True) / time.square()).expand_as(x)
        return (x - data) / time

    for time, after in ((95, 60), (60, 30), (30, 2)):
        (signal, sigma), (next_signal, next_sigma) = (
            (float(kept.sqrt()), float((1 - kept).sqrt())) for kept in schedule.alpha_bar[[time, after]]
        )
        noise = guide_noise(noise_predictor(schedule), schedule, guidance)(x, torch.full((6,), time))
        found = next_signal * (x - sigma * noise) / signal + next_sigma * noise
        t, t_after = sigma / (signal + sigma), next_sigma / (next_signal + next_sigma)
        state = x.unflatten(0, (2, 3)) / (signal + sigma)
        field, _ = guide(flow, state, guidance)
        expected = state + (t_after - t) * field(state, torch.full((2, 3), t, dtype=x.dtype))
        torch.testing.assert_close(found, expected.flatten(0, 1) * (next_signal + next_sigma))


@pytest.mark.parametrize("kind", ["guided", "identity"])
def test_a_guided_noise_predictor_leaves_free_what_is_free_and_takes_the_running_way(kind: str) -> None:
    schedule = squared_cosine(100)
    noise = torch.randn(2 * 100, 8, 1, generator=torch.Generator().manual_seed(0))
    predict = noise_predictor(schedule)
    free = ddim(predict, noise, schedule, 10)
    weights = prefix_weights(2, 5, 8)[None, :, None].repeat(2, 1, 1)
    weights[1] = 0  # the second row is free
    guidance = Guidance(target=torch.full((2, 8, 1), -1.0), weights=weights, kind=kind)
    tied = ddim(guide_noise(predict, schedule, guidance), noise, schedule, 10)
    assert 0.3 < (free[..., 0, 0] > 0).float().mean() < 0.7
    assert (tied[:100] < 0).float().mean() > 0.9  # also behind the actions that are tied
    torch.testing.assert_close(tied[100:], free[100:], atol=1e-4, rtol=0)

    def normal(x: Tensor, t: Tensor) -> Tensor:  # the data are standard normal
        return schedule.scales(t, x)[1] * x

    whole = Guidance(target=torch.full((2, 8, 1), 0.3), weights=torch.ones(2, 8, 1), kind="identity")
    pulled = ddim(guide_noise(normal, schedule, whole), noise, schedule, 50)
    assert (pulled - 0.3).abs().mean() < 0.1 * (ddim(normal, noise, schedule, 50) - 0.3).abs().mean()


def test_a_noise_predictor_has_no_time_for_each_action() -> None:
    guidance = Guidance(target=torch.zeros(1, T, A), weights=torch.zeros(1, T, A), kind="prefix")
    with pytest.raises(ValueError, match="choose guided or identity"):
        guide_noise(lambda x, t: x, squared_cosine(100), guidance)

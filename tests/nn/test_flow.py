import pytest
import torch

from visuomotor.nn import flow


@pytest.fixture
def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 4, 3, generator=generator), torch.randn(2, 4, 3, generator=generator)
    return data, noise, torch.rand(2, 4, generator=generator) * 0.8 + 0.1


def test_data_comes_back_from_the_velocity(draw: tuple[torch.Tensor, ...]) -> None:
    data, noise, time = draw
    x, v = flow.interpolate(data, noise, time), flow.velocity(data, noise)
    torch.testing.assert_close(flow.data_from_velocity(x, v, time), data)


def test_time_one_is_noise_and_zero_is_data(draw: tuple[torch.Tensor, ...]) -> None:
    data, noise, time = draw
    torch.testing.assert_close(flow.interpolate(data, noise, torch.ones_like(time)), noise)
    torch.testing.assert_close(flow.interpolate(data, noise, torch.zeros_like(time)), data)


def test_euler_follows_a_straight_path_exactly_and_visits_the_published_times(draw: tuple[torch.Tensor, ...]) -> None:
    data, noise, _ = draw
    times = []

    def field(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        times.append(t[0, 0].item())
        assert t.shape == x.shape[:2]
        return flow.velocity(data, noise)

    torch.testing.assert_close(flow.euler(field, noise, 10), data, atol=1e-5, rtol=1e-5)
    assert times == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    with pytest.raises(ValueError, match="steps is 0"):
        flow.euler(field, noise, 0)


def test_sampled_times_follow_the_beta_distribution() -> None:
    t = flow.sample_time((20_000,), torch.Generator().manual_seed(0), "cpu")
    beta = torch.distributions.Beta(1.5, 1.0)
    assert t.min() >= 0.001
    assert t.max() <= 1.0
    assert t.mean().item() == pytest.approx(0.999 * beta.mean.item() + 0.001, abs=0.01)
    assert t.std().item() == pytest.approx(0.999 * beta.stddev.item(), abs=0.01)


def test_time_code_has_the_published_periods() -> None:
    code = flow.time_code(torch.tensor([[0.25]]), 1024)
    assert code.shape == (1, 1, 1024)
    first, last = 2 * torch.pi * 0.25 / 4e-3, 2 * torch.pi * 0.25 / 4.0
    expected = torch.tensor([first, last])
    torch.testing.assert_close(code[0, 0, [0, 511]], expected.sin(), atol=1e-3, rtol=0)
    torch.testing.assert_close(code[0, 0, [512, 1023]], expected.cos(), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="even"):
        flow.time_code(torch.zeros(1), 7)

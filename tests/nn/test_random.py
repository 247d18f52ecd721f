import pytest
import torch

from visuomotor.nn.random import integers, normal, source, uniform


def test_draws_are_the_generators_and_repeat() -> None:
    cpu = torch.device("cpu")
    draws = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(3)
        draws.append((normal((4,), generator, cpu), uniform((4,), generator, cpu), integers(7, (4,), generator, cpu)))
    for a, b in zip(*draws, strict=True):
        assert torch.equal(a, b)
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(draws[0][0], torch.randn(4, generator=generator))
    assert draws[0][2].dtype == torch.int64
    assert normal((2,), None, cpu, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("draw", [lambda g, d: normal((2,), g, d), lambda g, d: integers(3, (2,), g, d)])
def test_a_generator_on_the_cpu_serves_other_devices(draw) -> None:
    meta = torch.device("meta")
    assert source(torch.Generator(), meta).type == "cpu"
    assert source(None, meta) == meta
    assert draw(torch.Generator(), meta).device.type == "meta"

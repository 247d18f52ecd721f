import diffusers
import pytest
import torch

from visuomotor.nn.diffusion import Schedule, ddim, ddpm, spaced_times, squared_cosine

SCHEDULE = squared_cosine(100)


def scheduler(clip: bool) -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=clip, set_alpha_to_one=True,
        steps_offset=0, prediction_type="epsilon",
    )  # fmt: skip


@pytest.fixture
def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    data, noise = torch.randn(2, 6, 5, 3, generator=generator, dtype=torch.float64)
    return data, noise, torch.tensor([0, 1, 30, 60, 90, 98])


def test_the_table_is_that_of_diffusers() -> None:
    torch.testing.assert_close(SCHEDULE.alpha_bar, scheduler(False).alphas_cumprod, atol=1e-7, rtol=1e-5)


def test_noising_is_that_of_diffusers(draw: tuple[torch.Tensor, ...]) -> None:
    data, noise, time = (t.float() if t.is_floating_point() else t for t in draw)
    oracle = scheduler(False)
    torch.testing.assert_close(SCHEDULE.noised(data, noise, time), oracle.add_noise(data, noise, time))


def test_data_comes_back_from_the_noise(draw: tuple[torch.Tensor, ...]) -> None:
    data, noise, time = draw
    exact = Schedule(SCHEDULE.alpha_bar.double())
    found = exact.data_from_noise(exact.noised(data, noise, time), noise, time)
    torch.testing.assert_close(found, data, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("steps", [1, 7, 10, 100])
def test_sampling_is_that_of_diffusers(clip: bool, steps: int) -> None:
    torch.manual_seed(0)
    noise, weight = torch.randn(3, 5, 4), 0.3 * torch.randn(4, 4)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x @ weight + 0.01 * t[:, None, None]

    oracle, x = scheduler(clip), noise
    oracle.set_timesteps(steps)
    for t in oracle.timesteps:
        x = oracle.step(predict(x, t.expand(3)), int(t), x, eta=0.0).prev_sample
    found = ddim(predict, noise, SCHEDULE, steps, clamp=1.0 if clip else None)
    torch.testing.assert_close(found, x, atol=2e-5, rtol=1e-4)


def test_ten_steps_are_every_tenth_time_from_ninety() -> None:
    assert SCHEDULE.times(10) == [90, 80, 70, 60, 50, 40, 30, 20, 10, 0]
    for steps in (0, 101):
        with pytest.raises(ValueError, match="1 to 100 steps"):
            SCHEDULE.times(steps)


def test_ancestral_sampling_is_that_of_diffusers() -> None:
    torch.manual_seed(0)
    noise, weight = torch.randn(3, 5, 4), 0.3 * torch.randn(4, 4)

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x @ weight + 0.01 * t[:, None, None]

    oracle = diffusers.DDPMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", variance_type="fixed_small", clip_sample=False
    )
    x, generator = noise, torch.Generator().manual_seed(1)
    for time in reversed(range(100)):
        x = oracle.step(predict(x, torch.full((3,), time)), time, x, generator=generator).prev_sample
    own = Schedule(oracle.alphas_cumprod)  # at the last times float32 betas differ by more than rounding
    found = ddpm(predict, noise, own, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(found, x, atol=2e-5, rtol=1e-4)


def test_sampling_visits_the_times_that_it_is_given() -> None:
    seen: list[int] = []

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append(int(t[0]))
        return x

    ddim(predict, torch.ones(1, 2), SCHEDULE, [70, 5, 3])
    assert seen == [70, 5, 3]


def test_the_table_holds_numbers_also_where_a_model_is_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        built = squared_cosine(100)
    torch.testing.assert_close(built.alpha_bar, SCHEDULE.alpha_bar, atol=0, rtol=0)


def test_times_are_evenly_spaced_from_zero_on() -> None:
    assert spaced_times(100, 10) == list(range(90, -1, -10))
    assert spaced_times(100, 3) == [68, 34, 0]
    assert spaced_times(100, 100) == list(range(99, -1, -1))
    assert spaced_times(100, 1) == [0]
    for steps in range(1, 101):
        try:
            times = spaced_times(100, steps)
        except ValueError as error:
            assert "No whole stride" in str(error)  # noqa: PT017
            continue
        assert len(times) == steps
    with pytest.raises(ValueError, match="takes 11 of 100 steps; choose 10 or 12"):
        spaced_times(100, 11)

import pytest

from visuomotor.heads.diffusion_config import SCALEDP_SIZES, ScaleDPConfig, UNetConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": 0}, "horizon is 0"),
        ({"state_dim": -1}, "state_dim is -1"),
        ({"denoise_steps": 101}, "101 denoise_steps do not fit into 100"),
        ({"mean_over": "most"}, "mean_over is 'most'"),
        ({"time_table": "float16"}, "time_table is 'float16'"),
        ({"width": 30, "heads": 4}, "width 30 with 4 heads"),
        ({"time_size": 7}, "time_size is 7"),
        ({"initialisation": "zero"}, "initialisation is 'zero'"),
        ({"embodiments": ("arm",), "action_dims": (3,)}, "1 embodiments have 1 action_dims and 0 state_dims"),
        ({"embodiments": ("a.b",), "action_dims": (3,), "state_dims": (3,)}, "have no dot"),
        ({"embodiments": ("a", "a"), "action_dims": (3, 3), "state_dims": (3, 3)}, "differ"),
        ({"embodiments": ("arm",), "action_dims": (15,), "state_dims": (3,)}, "'arm' has 15 actions"),
    ],
)
def test_contradictions_of_scaledp_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScaleDPConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"horizon": 18}, "Horizon 18 is not divisible by 4: 3 levels halve the chunk 2 times"),
        ({"kernel": 4}, "kernel is 4"),
        ({"channels": (256, 500)}, "do not split into 8 groups"),
        ({"channels": (12, 24), "groups": 4}, "the first into 8 final_groups"),
        ({"channels": ()}, "must be positive"),
        ({"step_width": 5}, "step_width is 5"),
    ],
)
def test_contradictions_of_the_unet_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetConfig(**fields)


def test_defaults_are_the_smallest_scaledp_and_the_published_unet() -> None:
    assert ScaleDPConfig() == ScaleDPConfig(**SCALEDP_SIZES["Ti"])
    assert UNetConfig().length_unit == 4

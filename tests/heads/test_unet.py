import math
from collections.abc import Callable

import diffusers
import pytest
import torch
from diffusers.models.downsampling import Downsample1D
from diffusers.models.resnet import Conv1dBlock
from diffusers.models.upsampling import Upsample1D
from torch import Tensor
from torch.nn import functional as F

from visuomotor.heads.diffusion_config import UNetConfig
from visuomotor.heads.unet import ConvolutionBlock, UNet

Make = Callable[..., UNet]


def literal(weights: dict[str, Tensor], x: Tensor, t: Tensor, cond: Tensor, robot: Tensor, groups: int) -> Tensor:
    """The specification line by line, from published names alone; three levels, 8 groups at the end."""

    def of(name: str) -> tuple[Tensor, Tensor]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def convolved(name: str, v: Tensor, groups: int) -> Tensor:
        v = F.conv1d(v, *of(f"{name}.block.0"), padding="same")
        return F.mish(F.group_norm(v, groups, *of(f"{name}.block.1")))

    def residual(name: str, v: Tensor) -> Tensor:
        h = convolved(f"{name}.blocks.0", v, groups)
        scale, bias = F.linear(F.mish(feature), *of(f"{name}.cond_encoder.1")).reshape(len(v), 2, -1, 1).unbind(1)
        h = convolved(f"{name}.blocks.1", scale * h + bias, groups)
        skip = f"{name}.residual_conv"
        return h + (F.conv1d(v, *of(skip)) if f"{skip}.weight" in weights else v)

    pooled = F.layer_norm(cond.squeeze(1), cond.shape[2:], *of("norm_after_pool"))
    half = weights["diffusion_step_encoder.1.weight"].shape[1] // 2
    angle = t[:, None] * torch.tensor([math.exp(-math.log(1e4) * k / (half - 1)) for k in range(half)])
    step = F.mish(F.linear(torch.cat([angle.sin(), angle.cos()], 1), *of("diffusion_step_encoder.1")))
    step = F.linear(step, *of("diffusion_step_encoder.3"))
    feature = torch.cat([step, F.linear(torch.cat([pooled, robot], 1), *of("combine"))], 1)

    first = residual("down_modules.0.1", residual("down_modules.0.0", x.mT))
    second = F.conv1d(first, *of("down_modules.0.2.conv"), stride=2, padding=1)
    second = residual("down_modules.1.1", residual("down_modules.1.0", second))
    third = F.conv1d(second, *of("down_modules.1.2.conv"), stride=2, padding=1)
    third = residual("down_modules.2.1", residual("down_modules.2.0", third))
    h = residual("mid_modules.1", residual("mid_modules.0", third))
    for i, skip in enumerate((third, second)):
        h = residual(f"up_modules.{i}.1", residual(f"up_modules.{i}.0", torch.cat([h, skip], 1)))
        h = F.conv_transpose1d(h, *of(f"up_modules.{i}.2.conv"), stride=2, padding=1)
    return F.conv1d(convolved("final_conv.0", h, 8), *of("final_conv.1")).mT


def test_forward_is_the_specification_and_uses_every_weight(make_unet: Make, make_inputs: Callable) -> None:
    head = make_unet()
    inputs = make_inputs(head)
    x, t, *told = inputs.all()
    torch.testing.assert_close(head(x, 7, *told), head(x, torch.full_like(t, 7), *told))
    used: set[str] = set()

    class Watched(dict):
        def __getitem__(self, name: str) -> Tensor:
            used.add(name)
            return super().__getitem__(name)

    expected = literal(Watched(head.state_dict()), *inputs.all(), groups=4)
    assert expected.std() > 0.05
    torch.testing.assert_close(head(*inputs.all()), expected, atol=1e-5, rtol=1e-4)
    assert used == set(head.state_dict())


def test_convolutions_are_those_of_diffusers(make_unet: Make) -> None:
    torch.manual_seed(0)
    x, block, oracle = torch.randn(2, 16, 6), ConvolutionBlock(16, 12, 5, 4), Conv1dBlock(16, 12, 5, n_groups=4)
    names = {"conv1d": "block.0", "group_norm": "block.1"}
    own = block.state_dict()
    kinds = ("weight", "bias")
    oracle.load_state_dict({f"{a}.{kind}": own[f"{b}.{kind}"] for a, b in names.items() for kind in kinds})
    torch.testing.assert_close(block(x), oracle(x))
    head = make_unet()
    down, up = head.get_submodule("down_modules.0.2"), head.get_submodule("up_modules.1.2")
    for found, expected in ((down, Downsample1D(16, use_conv=True)), (up, Upsample1D(16, use_conv_transpose=True))):
        expected.load_state_dict(found.state_dict())
        torch.testing.assert_close(found(x), expected(x))


@pytest.mark.parametrize(
    ("fields", "millions"), [({"cond_dim": 1536, "action_dim": 14, "state_dim": 14}, 89.6), ({}, 98.8)]
)
def test_published_sizes(fields: dict, millions: float) -> None:
    with torch.device("meta"):
        head = UNet(UNetConfig(**fields))
    assert round(sum(p.numel() for p in head.parameters()) / 1e6, 1) == millions


def test_sampling_is_that_of_diffusers(make_unet: Make, make_inputs: Callable) -> None:
    head = make_unet()
    x, _, cond, state = make_inputs(head).all()
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=True, set_alpha_to_one=True,
        steps_offset=0, prediction_type="epsilon",
    )  # fmt: skip
    scheduler.set_timesteps(10)
    expected = x
    for t in scheduler.timesteps:
        with torch.no_grad():
            noise = head(expected, t.expand(len(x)), cond, state)
        expected = scheduler.step(noise, int(t), expected, eta=0.0).prev_sample
    torch.testing.assert_close(head.sample(cond, state, x), expected, atol=2e-5, rtol=1e-4)


def test_every_weight_learns_from_the_loss(make_unet: Make, make_inputs: Callable) -> None:
    head = make_unet()
    inputs = make_inputs(head)
    valid = torch.ones_like(inputs.x, dtype=torch.bool)
    head.loss(inputs.x, valid, inputs.cond, inputs.state, generator=torch.Generator().manual_seed(0)).sum.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_lengths_that_do_not_halve_are_refused(make_unet: Make, make_inputs: Callable) -> None:
    head = make_unet()
    x, t, cond, state = make_inputs(head).all()
    assert head(torch.cat([x, x[:, :4]], 1), t, cond, state).shape == (3, 12, 3)
    with pytest.raises(ValueError, match="6 actions is not divisible by 4"):
        head(x[:, :6], t, cond, state)

"""The tower against a literal transcription of its specification, written with other operations."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from visuomotor.nn.rotary import grid_rotation, rotate_pairs
from visuomotor.nn.vision import PerceptionEncoder, VisionConfig, prepare_images, sinusoidal_grid

CONFIG = VisionConfig(image_size=32, patch_size=4, width=16, layers=2, heads=2, mlp_width=24)


@pytest.fixture(scope="module")
def tower() -> PerceptionEncoder:
    torch.manual_seed(0)
    tower = PerceptionEncoder(CONFIG)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower


def reference(tower: PerceptionEncoder, image: torch.Tensor) -> torch.Tensor:
    """One image, head by head and token by token."""
    p = dict(tower.named_parameters())
    x = F.conv2d(image[None], p["conv1.weight"], stride=4)[0]
    side = x.shape[1]
    x = torch.cat([p["class_embedding"][None], x.flatten(1).T]) + p["positional_embedding"]
    x = F.layer_norm(x, (16,), p["ln_pre.weight"], p["ln_pre.bias"], 1e-5)
    frequency = 10000.0 ** (-torch.arange(0, 4, 2) / 4.0)
    angles = torch.zeros(1 + side * side, 8)
    for row in range(side):
        for column in range(side):
            parts = [(column + 1) * frequency.repeat_interleave(2), (row + 1) * frequency.repeat_interleave(2)]
            angles[1 + row * side + column] = torch.cat(parts)

    def rotate(t: torch.Tensor) -> torch.Tensor:
        turned = torch.empty_like(t)
        turned[:, 0::2], turned[:, 1::2] = -t[:, 1::2], t[:, 0::2]
        return t * angles.cos() + turned * angles.sin()

    for i in range(2):
        name = f"transformer.resblocks.{i}."
        n = F.layer_norm(x, (16,), p[name + "ln_1.weight"], p[name + "ln_1.bias"], 1e-5)
        q, k, v = (n @ p[name + "attn.in_proj_weight"].T + p[name + "attn.in_proj_bias"]).split(16, dim=1)
        heads = []
        for h in (slice(0, 8), slice(8, 16)):
            weights = (rotate(q[:, h]) @ rotate(k[:, h]).T / math.sqrt(8)).softmax(-1)
            heads.append(weights @ v[:, h])
        a = torch.cat(heads, 1) @ p[name + "attn.out_proj.weight"].T + p[name + "attn.out_proj.bias"]
        x = x + a * p[name + "ls_1.gamma"]
        n = F.layer_norm(x, (16,), p[name + "ln_2.weight"], p[name + "ln_2.bias"], 1e-5)
        m = F.linear(n, p[name + "mlp.c_fc.weight"], p[name + "mlp.c_fc.bias"])
        m = m * 0.5 * (1 + torch.erf(m / math.sqrt(2)))
        x = x + F.linear(m, p[name + "mlp.c_proj.weight"], p[name + "mlp.c_proj.bias"]) * p[name + "ls_2.gamma"]
    grid = x[1:].T.reshape(1, 16, side, side)
    for i in (1, 2):
        grid = F.conv2d(grid, p[f"vit_downsampler{i}.weight"], p[f"vit_downsampler{i}.bias"], stride=2, padding=1)
    return grid[0].flatten(1).T


@torch.no_grad()
def test_equals_the_specification(tower: PerceptionEncoder) -> None:
    images = torch.randn(3, 3, 32, 32)
    expected = torch.stack([reference(tower, image) for image in images])
    assert expected.shape == (3, CONFIG.tokens(), CONFIG.output_width)
    torch.testing.assert_close(tower(images), expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_other_resolutions_resize_the_position_table(tower: PerceptionEncoder) -> None:
    assert tower(torch.randn(1, 3, 48, 48)).shape == (1, CONFIG.tokens(48), 64)
    with pytest.raises(ValueError, match="multiple of 4"):
        tower(torch.randn(1, 3, 30, 30))
    with pytest.raises(ValueError, match="squares"):
        tower(torch.randn(1, 3, 32, 28))


def test_complex_rotation_equals_the_real_one() -> None:
    x, rotation = torch.randn(2, 2, 17, 8), grid_rotation(4, 8)
    wide = rotate_pairs(x.double(), (rotation[0].double(), rotation[1].double()))
    torch.testing.assert_close(rotate_pairs(x, rotation), wide.float())
    torch.testing.assert_close(x[:, :, 0], rotate_pairs(x, rotation)[:, :, 0])


def test_published_token_count() -> None:
    config = VisionConfig(image_size=728, patch_size=14, width=1024, layers=23, heads=16, mlp_width=4096)
    assert config.tokens() == 169


@pytest.mark.parametrize(("pad", "colour"), [("grey", 127), ("black", 0)])
def test_preparation_equals_pil(pad: str, colour: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 33, 3), dtype=np.uint8)
    canvas = Image.new("RGB", (33, 33), (colour,) * 3)
    canvas.paste(Image.fromarray(image), (0, 6))
    expected = np.asarray(canvas.resize((24, 24), Image.Resampling.BICUBIC), dtype=np.float32)
    found = prepare_images(torch.from_numpy(image)[None], 24, pad)  # type: ignore[arg-type]
    restored = ((found[0].permute(1, 2, 0) * 0.5 + 0.5) * 255).numpy()
    assert np.abs(restored - expected).max() < 1.01  # at most one grey level
    assert np.abs(restored - expected).mean() < 0.02


def test_an_image_of_the_right_size_is_only_scaled() -> None:
    image = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    torch.testing.assert_close(prepare_images(image, 8), image.permute(0, 3, 1, 2).float() / 127.5 - 1)


def test_contradicting_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="patch side"):
        VisionConfig(image_size=30, patch_size=4, width=16, layers=1, heads=2, mlp_width=16)
    with pytest.raises(ValueError, match="multiple of 4"):
        VisionConfig(image_size=32, patch_size=4, width=18, layers=1, heads=3, mlp_width=16)


def test_sinusoidal_grid_tells_every_place_apart() -> None:
    code = sinusoidal_grid(6, 16)
    assert code.shape == (36, 16)
    assert torch.pdist(code).min() > 0.3
    torch.testing.assert_close(code.unflatten(0, (6, 6))[2, :, :8], code.unflatten(0, (6, 6))[4, :, :8])  # columns
    torch.testing.assert_close(code.unflatten(0, (6, 6))[:, 1, 8:], code.unflatten(0, (6, 6))[:, 5, 8:])  # rows

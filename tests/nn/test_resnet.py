import re

import pytest
import torch
from torch import Tensor
from transformers import ResNetConfig as PublicConfig
from transformers import ResNetModel

from visuomotor.nn.resnet import RESNET_SIZES, ResNet, ResNetConfig, imagenet_pixels

TINY = {"stem": 8, "widths": (16, 32), "depths": (1, 2)}


def named_like_transformers(name: str) -> str:
    """The name of one of our tensors in transformers' ResNet."""
    name = re.sub(r"^conv1\.", "embedder.embedder.convolution.", name)
    name = re.sub(r"^bn1\.", "embedder.embedder.normalization.", name)
    name = re.sub(r"^layer(\d+)\.(\d+)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers.{m[2]}.", name)
    name = name.replace("downsample.0.", "shortcut.convolution.").replace("downsample.1.", "shortcut.normalization.")
    name = re.sub(r"conv(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.convolution.", name)
    return re.sub(r"bn(\d)\.", lambda m: f"layer.{int(m[1]) - 1}.normalization.", name)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_equals_transformers(bottleneck: bool) -> None:
    ours = ResNet(ResNetConfig(bottleneck=bottleneck, **TINY)).eval()
    public = ResNetModel(
        PublicConfig(
            embedding_size=8, hidden_sizes=[16, 32], depths=[1, 2], layer_type="bottleneck" if bottleneck else "basic"
        )
    ).eval()
    for module in public.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # identities would hide a misplaced norm
            torch.nn.init.uniform_(module.running_mean, -0.3, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    theirs = public.state_dict()
    names = {name: named_like_transformers(name) for name in ours.state_dict()}
    assert set(names.values()) == theirs.keys()
    ours.load_state_dict({name: theirs[other] for name, other in names.items()})
    images = torch.randn(2, 3, 40, 56)
    torch.testing.assert_close(ours(images), public(images).pooler_output.flatten(1), atol=1e-5, rtol=1e-4)


def test_the_published_size_has_as_many_parameters_as_transformers() -> None:
    with torch.device("meta"):
        ours, public = ResNet(ResNetConfig(**RESNET_SIZES["50"])), ResNetModel(PublicConfig())
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in public.parameters()) == 23_508_032


def filmed(norm: str = "group") -> tuple[ResNet, ResNet]:
    torch.manual_seed(0)
    told = ResNet(ResNetConfig(norm=norm, **TINY), condition_dim=5).eval()  # type: ignore[arg-type]
    plain = ResNet(told.config).eval()
    plain.load_state_dict({n: t for n, t in told.state_dict().items() if not n.startswith("film")})
    return told, plain


def test_fresh_film_is_the_identity_and_then_every_stage_listens() -> None:
    told, plain = filmed()
    images, condition = torch.randn(2, 3, 32, 32), torch.randn(2, 5)
    assert torch.equal(told(images, condition), plain(images))
    told(images, condition).sum().backward()
    assert told.film is not None
    for film in told.film:
        for linear in (film.scale_fc, film.shift_fc):
            assert isinstance(linear.weight.grad, Tensor)
            assert bool(linear.weight.grad.any())


def test_film_scales_and_shifts_the_last_stage() -> None:
    told, plain = filmed()
    images, condition = torch.randn(2, 3, 32, 32), torch.randn(2, 5)
    assert told.film is not None
    torch.nn.init.constant_(told.film[-1].scale_fc.bias, 0.5)  # type: ignore[union-attr]
    torch.nn.init.constant_(told.film[-1].shift_fc.bias, 2.0)  # type: ignore[union-attr]
    torch.testing.assert_close(told(images, condition), 1.5 * plain(images) + 2.0)


def test_group_norm_keeps_images_apart() -> None:
    network, _ = filmed("group")
    network.train()
    images, condition = torch.randn(3, 3, 32, 32), torch.randn(3, 5)
    torch.testing.assert_close(network(images, condition)[:1], network(images[:1], condition[:1]))


def test_refuses_what_contradicts() -> None:
    with pytest.raises(ValueError, match="condition_dim"):
        ResNet(ResNetConfig(**TINY))(torch.zeros(1, 3, 32, 32), torch.zeros(1, 5))
    with pytest.raises(ValueError, match="as many stages"):
        ResNetConfig(widths=(8,), depths=(1, 1))
    with pytest.raises(ValueError, match="multiples of 4"):
        ResNetConfig(widths=(6,), depths=(1,))


def test_pixels_are_centred_by_imagenet() -> None:
    white = imagenet_pixels(torch.full((1, 2, 4, 3), 255, dtype=torch.uint8))
    assert white.shape == (1, 3, 2, 4)
    torch.testing.assert_close(white[0, :, 0, 0], torch.tensor([2.2489, 2.4286, 2.6400]), atol=1e-4, rtol=0)

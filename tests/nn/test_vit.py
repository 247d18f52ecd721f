from dataclasses import replace

import pytest
import torch

from visuomotor.nn.vit import ViT, ViTConfig, resize_grid

CONFIG = ViTConfig(
    image_size=28, patch_size=7, width=16, layers=3, heads=2, mlp_width=24, class_token=True, registers=2, layer_scale=1
)


def tower(config: ViTConfig) -> ViT:
    torch.manual_seed(0)
    return ViT(config)


def test_names_are_timms() -> None:
    block = [f"{part}.{kind}" for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
             for kind in ("weight", "bias")]  # fmt: skip
    plain = {"pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias", "norm.weight", "norm.bias"}
    plain |= {f"blocks.{i}.{name}" for i in range(3) for name in block}
    gains = {f"blocks.{i}.ls{k}.gamma" for i in range(3) for k in (1, 2)}
    assert set(tower(CONFIG).state_dict()) == plain | gains | {"cls_token", "reg_token"}
    siglip = replace(CONFIG, class_token=False, registers=0, layer_scale=None)
    assert set(tower(siglip).state_dict()) == plain
    assert tower(CONFIG).pos_embed.shape == (1, 16, 16)  # patches only


def test_tokens_are_split_into_prefix_and_patches_and_later_blocks_are_not_run() -> None:
    vit, images = tower(CONFIG), torch.randn(2, 3, 28, 28)
    prefix, patches = vit(images)
    assert prefix.shape == (2, 3, 16)
    assert patches.shape == (2, 16, 16)
    (prefix.sum() + patches.square().sum()).backward()
    assert vit.blocks[1].attn.qkv.weight.grad is not None
    assert vit.blocks[2].attn.qkv.weight.grad is None
    torch.testing.assert_close(vit(images, 1)[1], patches, atol=0, rtol=0)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(vit(images, -1)[1], patches)


def test_patches_move_with_the_image_when_positions_are_equal_and_prefix_tokens_stay() -> None:
    vit = tower(CONFIG).eval()
    with torch.no_grad():
        vit.pos_embed.zero_()
        images = torch.randn(1, 3, 28, 28)
        prefix, patches = vit(images)
        moved_prefix, moved = vit(images.roll(7, dims=3))
    torch.testing.assert_close(moved_prefix, prefix, atol=1e-5, rtol=1e-5)
    grid = patches.unflatten(1, (4, 4))
    torch.testing.assert_close(moved.unflatten(1, (4, 4)), grid.roll(1, dims=2), atol=1e-5, rtol=1e-5)


def test_layers_computed_again_have_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        vit = tower(CONFIG)
        vit.checkpoint = again
        vit(torch.ones(1, 3, 28, 28))[1].square().sum().backward()
        gradients.append(vit.patch_embed.proj.weight.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=0, rtol=0)


def test_position_tables_of_other_grids() -> None:
    rows = torch.arange(4.0).repeat_interleave(4)[:, None]
    same = resize_grid(rows, 4)
    assert same is rows
    larger = resize_grid(rows, 8).unflatten(0, (8, 8))[..., 0]
    torch.testing.assert_close(larger[:, 0], larger[:, 7])  # constant along columns
    assert (larger.diff(dim=0)[1:-1] > 0).all()
    with pytest.raises(ValueError, match="no square grid"):
        resize_grid(rows[:15], 4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the patch side 7"):
        replace(CONFIG, image_size=30)
    with pytest.raises(ValueError, match="at least 1 layer"):
        replace(CONFIG, layers=0)
    with pytest.raises(ValueError, match="Known: none, tanh"):
        replace(CONFIG, gelu="exact")
    vit = tower(CONFIG)
    with pytest.raises(ValueError, match=r"takes \[B, 3, 28, 28\]"):
        vit(torch.zeros(1, 3, 35, 35))
    for block in (3, -4):
        with pytest.raises(ValueError, match=f"no block {block}"):
            vit(torch.zeros(1, 3, 28, 28), block)

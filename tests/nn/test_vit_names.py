from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from visuomotor.nn.vit import DINOV2_LARGE, SIGLIP_SO400M, ViT, ViTConfig
from visuomotor.nn.vit_names import from_timm, from_transformers

DINO = ViTConfig(
    image_size=28, patch_size=7, width=32, layers=3, heads=4, mlp_width=64, class_token=True, registers=4, layer_scale=1
)
SIGLIP = ViTConfig(image_size=28, patch_size=7, width=32, layers=3, heads=4, mlp_width=56)
PALIGEMMA = replace(SIGLIP, gelu="tanh")


def dino_oracle(config: ViTConfig) -> Dinov2WithRegistersModel:
    return Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(
            hidden_size=config.width, num_hidden_layers=config.layers, num_attention_heads=config.heads,
            mlp_ratio=config.mlp_width // config.width, image_size=config.image_size, patch_size=config.patch_size,
            num_register_tokens=config.registers,
        )
    ).eval()  # fmt: skip


def siglip_oracle(config: ViTConfig) -> SiglipVisionModel:
    activation = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}[config.gelu]
    return SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=config.width, num_hidden_layers=config.layers, num_attention_heads=config.heads,
            intermediate_size=config.mlp_width, image_size=config.image_size, patch_size=config.patch_size,
            hidden_act=activation,
        )
    ).eval()  # fmt: skip


def randomised(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def loaded(config: ViTConfig, tensors: dict[str, Tensor]) -> ViT:
    vit = ViT(config).eval()
    vit.load_state_dict(from_transformers(tensors, config)[0])  # strict
    return vit


@torch.no_grad()
def require_same_in_every_block(vit: ViT, oracle: nn.Module) -> None:
    """All blocks, and the tokens behind the final norm."""
    images = torch.randn(2, 3, vit.config.image_size, vit.config.image_size)
    expected = oracle(images, output_hidden_states=True)
    for block in range(3):
        found = torch.cat(vit(images, block), dim=1)
        torch.testing.assert_close(found, expected.hidden_states[block + 1], atol=1e-5, rtol=1e-5)
    normed = torch.cat(vit(images, -1, norm=True), dim=1)
    torch.testing.assert_close(normed, expected.last_hidden_state, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("make", "config"), [(dino_oracle, DINO), (siglip_oracle, SIGLIP), (siglip_oracle, PALIGEMMA)])
def test_equals_transformers_in_every_block(make, config: ViTConfig) -> None:
    oracle = randomised(make(config))
    require_same_in_every_block(loaded(config, oracle.state_dict()), oracle)


@torch.no_grad()
def test_the_two_gelus_are_told_apart() -> None:
    """They differ by little, which a tolerance of 1e-5 may hide: the right one is 20 times closer."""
    oracle, images = randomised(siglip_oracle(PALIGEMMA)), torch.randn(1, 3, 28, 28)
    expected = oracle(images).last_hidden_state
    towers = [loaded(config, oracle.state_dict()) for config in (PALIGEMMA, SIGLIP)]
    right, wrong = ((tower(images, -1, norm=True)[1] - expected).abs().max() for tower in towers)
    assert wrong > 20 * right


def test_the_tower_of_paligemma_has_the_stated_number_of_parameters() -> None:
    with torch.device("meta"):
        tower = ViT(replace(SIGLIP_SO400M, gelu="tanh"))
    assert sum(parameter.numel() for parameter in tower.parameters()) == 412_442_352
    assert tower.config.patches == 256


@torch.no_grad()
def test_blocks_in_bfloat16_behind_an_embedding_in_float32() -> None:
    """The types of the published pi0: positions are added in float32, blocks and norm compute in bfloat16."""
    vit = loaded(PALIGEMMA, randomised(siglip_oracle(PALIGEMMA)).state_dict())
    images = torch.randn(2, 3, 28, 28)
    embedded = vit.patch_embed(images) + vit.pos_embed
    mixed = deepcopy(vit).bfloat16()
    mixed.patch_embed, mixed.pos_embed = vit.patch_embed, vit.pos_embed
    x = embedded.bfloat16()
    for block in mixed.blocks:
        x = block(x)
    found = mixed(images, -1, norm=True)[1]
    torch.testing.assert_close(found, mixed.norm(x), atol=0, rtol=0)
    whole = vit(images, -1, norm=True)[1]
    assert (found - whole).norm() < 2e-2 * whole.norm()


def test_files_of_the_hub_have_other_names(tmp_path: Path) -> None:
    oracle = randomised(dino_oracle(DINO))
    oracle.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert set(written) != set(oracle.state_dict())
    require_same_in_every_block(loaded(DINO, written), oracle)


def test_siglip_is_found_beside_its_text_tower() -> None:
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = siglip_oracle(SIGLIP).config.to_dict()
    oracle = randomised(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval())
    names = oracle.state_dict()
    assert any(name.startswith("vision_model.") for name in names)
    require_same_in_every_block(loaded(SIGLIP, names), oracle.vision_model)


@pytest.mark.parametrize("size", [21, 42])
def test_positions_are_resized_as_transformers_does(size: int) -> None:
    oracle = randomised(dino_oracle(DINO))
    vit = loaded(ViTConfig(**{**vars(DINO), "image_size": size}), oracle.state_dict())
    require_same_in_every_block(vit, oracle)


@pytest.mark.parametrize(("make", "config"), [(dino_oracle, DINOV2_LARGE), (siglip_oracle, SIGLIP_SO400M)])
def test_published_sizes_are_those_of_transformers(make, config: ViTConfig) -> None:
    with torch.device("meta"):
        found, _ = from_transformers(make(config).state_dict(), config)
        own = ViT(config).state_dict()
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in own.items()}


def test_what_the_tower_has_no_use_for_is_named() -> None:
    _, unused = from_transformers(dino_oracle(DINO).state_dict(), DINO)
    assert unused == ("mask_token",)
    _, unused = from_transformers(siglip_oracle(SIGLIP).state_dict(), SIGLIP)
    assert unused
    assert all(name.startswith("head.") for name in unused)
    own = ViT(SIGLIP).state_dict()
    found, unused = from_timm({**own, "attn_pool.latent": torch.zeros(1)}, SIGLIP)
    assert set(found) == set(own)
    assert unused == ("attn_pool.latent",)


def test_a_position_of_the_class_token_is_added_to_it() -> None:
    own = ViT(DINO).state_dict()
    moved, position = dict(own), torch.randn(1, 1, 32)
    moved["pos_embed"] = torch.cat([position, own["pos_embed"]], dim=1)
    moved["cls_token"] = own["cls_token"] - position
    found, _ = from_timm(moved, DINO)
    torch.testing.assert_close(found["cls_token"], own["cls_token"])
    torch.testing.assert_close(found["pos_embed"], own["pos_embed"], atol=0, rtol=0)


def test_an_incomplete_projection_is_left_out_whole() -> None:
    tensors = dict(siglip_oracle(SIGLIP).state_dict())
    del tensors["encoder.layers.1.self_attn.k_proj.bias"]
    found, _ = from_transformers(tensors, SIGLIP)
    assert set(ViT(SIGLIP).state_dict()) - set(found) == {"blocks.1.attn.qkv.bias"}

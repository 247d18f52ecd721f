from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import LlamaConfig

from tests.models.cogact.conftest import read
from visuomotor.backbones.base import ContextRequest
from visuomotor.backbones.decoder import DecoderBackbone
from visuomotor.models.cogact.config import LLAMA2_7B, SIZES, VLMConfig
from visuomotor.models.cogact.convert import vlm_from_published
from visuomotor.models.cogact.initialize import fresh_backbone
from visuomotor.models.raw import raw_batch
from visuomotor.nn.vit import DINOV2_LARGE
from visuomotor.text.cogact_prompt import prompt, prompt_ids


@pytest.fixture(scope="module")
def vlm(world: Any) -> DecoderBackbone:
    return vlm_from_published(world.parts, vision_heads=2, llm_heads=4)[0]


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    dino, siglip = torch.randn(2, 2, 3, 28, 28, generator=generator)
    valid = torch.tensor([[True] * 7, [True] * 5 + [False] * 2])
    return dino, siglip, torch.randint(60, (2, 7), generator=generator), valid


@torch.no_grad()
def test_features_are_those_of_transformers_models_put_together(
    world: Any, vlm: DecoderBackbone, inputs: tuple[Tensor, ...]
) -> None:
    dino, siglip, ids, valid = inputs
    seen = world.dino(dino, output_hidden_states=True).hidden_states[-2]
    others = world.siglip(siglip, output_hidden_states=True).hidden_states[-2]
    patches = world.projector(torch.cat([seen[:, 5:], others], dim=-1))
    text = world.llama.embed_tokens(ids)
    x = torch.cat([text[:, :1], patches, text[:, 1:]], dim=1)
    mask = torch.cat([valid[:, :1], valid.new_ones(2, 16), valid[:, 1:]], dim=1).long()
    states = world.llama(inputs_embeds=x, attention_mask=mask, output_hidden_states=True).hidden_states
    layers = (0, 1, 2, 3, -1)
    found = read(vlm, dino, siglip, ids, valid, layers)
    for layer, feature in found.states.items():
        # As published: the first 16 positions are dropped, then the last attended one of the text is read.
        expected = torch.stack([states[layer][row, 16:][last] for row, last in enumerate((6, 4))])
        torch.testing.assert_close(feature, expected[:, None], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.features["prefix"], seen[:, :5], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_changes_nothing(vlm: DecoderBackbone, inputs: tuple[Tensor, ...]) -> None:
    dino, siglip, ids, valid = inputs
    together = read(vlm, dino, siglip, ids, valid).states[-1]
    alone = read(vlm, dino[1:], siglip[1:], ids[1:, :5], valid[1:, :5]).states[-1]
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=1e-5)
    assert together.shape == (2, 1, 32)


@torch.no_grad()
def test_images_are_resized_without_their_aspect_and_normalised_for_each_tower(
    vlm: DecoderBackbone, inputs: tuple[Tensor, ...]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    resized = np.asarray(Image.fromarray(pixels).resize((28, 28), Image.Resampling.BICUBIC)) / 255
    batch = torch.from_numpy(pixels)[None]
    dino, siglip = vlm.vision.prepare(batch).chunk(2, dim=1)
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    level = 1.01 / 255  # what rounding in the two implementations may differ by
    torch.testing.assert_close(dino[0].permute(1, 2, 0), torch.from_numpy(expected).float(), atol=level / 0.224, rtol=0)
    torch.testing.assert_close(
        siglip[0].permute(1, 2, 0), torch.from_numpy(resized * 2 - 1).float(), atol=2 * level, rtol=0
    )
    _, _, ids, valid = inputs
    raw = raw_batch(torch.zeros(1, 1, 6, 28, 28), valid[:1, :1], ids[:1], valid[:1])
    found = vlm.observe(replace(raw, images={"0": batch}), ContextRequest(layers=(-1,), at="prompt")).states[-1]
    torch.testing.assert_close(found, read(vlm, dino, siglip, ids[:1], valid[:1]).states[-1], atol=0, rtol=0)


def test_the_prompt_ends_with_the_cognition_token() -> None:
    text = "In: What action should the robot take to pick up the coke can?\nOut:"
    assert prompt("Pick up the COKE can") == text
    given = []

    def encode(text: str) -> list[int]:
        given.append(text)
        return [1, 512]

    assert prompt_ids("Pick up the COKE can", encode) == [1, 512, 29871, 2]
    assert given == [text]


def test_what_does_not_fit_is_refused(vlm: DecoderBackbone, inputs: tuple[Tensor, ...]) -> None:
    with pytest.raises(ValueError, match="no layer 4: the language model has 3"):
        read(vlm, *inputs, layers=(4,))
    with pytest.raises(ValueError, match="same patches"):
        VLMConfig(dinov2=replace(DINOV2_LARGE, image_size=448))
    with pytest.raises(ValueError, match="embedding table"):
        VLMConfig(llm=replace(LLAMA2_7B, vocab_size=None))


def test_published_dimensions() -> None:
    config, llama = VLMConfig(), LlamaConfig()
    assert (LLAMA2_7B.width, LLAMA2_7B.mlp_width, LLAMA2_7B.layers, LLAMA2_7B.heads, LLAMA2_7B.kv_heads) == (
        llama.hidden_size, llama.intermediate_size, llama.num_hidden_layers, llama.num_attention_heads,
        llama.num_key_value_heads,
    )  # fmt: skip
    assert LLAMA2_7B.head_dim == llama.head_dim
    assert not LLAMA2_7B.qk_norm
    assert (config.vision_width, config.dinov2.patches, config.siglip.patches) == (2176, 256, 256)
    with torch.device("meta"):
        own = fresh_backbone(replace(SIZES["base"], llm=replace(LLAMA2_7B, layers=1))).state_dict()
    shapes = {name: list(own[f"vision.projector.{name}"].shape) for name in ("0.weight", "2.weight", "4.weight")}
    assert shapes == {"0.weight": [8704, 2176], "2.weight": [4096, 8704], "4.weight": [4096, 4096]}

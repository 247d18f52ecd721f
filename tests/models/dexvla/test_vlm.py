"""Our towers and layout against transformers' own Qwen2-VL, with its processor's patches and its M-RoPE positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from visuomotor.contract import Batch
from visuomotor.models.dexvla import DexVLA
from visuomotor.models.dexvla.images import patches, resized, smart_resize
from visuomotor.models.dexvla.layout import Layout, arrange
from visuomotor.models.dexvla.vlm import read


def qwen(model: DexVLA) -> Qwen2VLForConditionalGeneration:
    """transformers' model with the same weights."""
    text, vision = model.model.config.to_dict(), model.visual.config.to_dict()
    ids = {"image_token_id": model.config.image_id, "tie_word_embeddings": True}
    oracle = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids)).eval()
    inner = {name: t for name, t in model.state_dict().items() if name.startswith(("model.", "visual."))}
    renamed = {f"model.language_{n}" if n.startswith("model.") else f"model.{n}": t for n, t in inner.items()}
    missing, unexpected = oracle.load_state_dict(renamed, strict=False)
    assert missing in ([], ["lm_head.weight"])
    assert not unexpected
    oracle.tie_weights()
    return oracle


def oracle_inputs(model: DexVLA, batch: Batch, layout: Layout) -> dict[str, Tensor]:
    """What transformers' processor would make of the batch."""
    config, tower = model.config, model.config.vision
    views, size = list(batch.images.values()), (config.image_height, config.image_width)
    factor = tower.patch_size * tower.merge
    pixels = [patches(resized(v, size, factor), tower.patch_size, tower.merge) for v in views]
    grid = [1, *(config.vision.merge * side for side in config.image_grid)]
    return {
        "input_ids": layout.ids,
        "attention_mask": layout.valid.long(),
        "mm_token_type_ids": layout.image.int(),
        "pixel_values": torch.stack(pixels, dim=1).flatten(0, 2),
        "image_grid_thw": torch.tensor([grid] * (batch.size * len(views))),
    }


def test_states_and_text_loss_are_those_of_transformers(dexvla: DexVLA, batch: Batch) -> None:
    layout = arrange(batch, dexvla.config.image_id, dexvla.config.image_grid)
    oracle = qwen(dexvla)
    labels = layout.ids.where(layout.target, -100)
    with torch.no_grad():
        expected = oracle(**oracle_inputs(dexvla, batch, layout), labels=labels, output_hidden_states=True)
        states = read(dexvla.model, dexvla._embed(batch, layout), layout.positions, layout.valid)
        text = dexvla.loss(batch).terms["text"]
    torch.testing.assert_close(states[layout.valid], expected.hidden_states[-1][layout.valid], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(text.sum / text.count, expected.loss, atol=1e-5, rtol=1e-5)
    assert text.rows is not None
    torch.testing.assert_close(text.rows.sum(1)[0], text.sum)


def test_the_sequence_is_padded_on_the_left_and_positions_are_mrope(dexvla: DexVLA, batch: Batch) -> None:
    grid = dexvla.config.image_grid
    layout = arrange(batch, dexvla.config.image_id, grid)
    assert not layout.valid.int().diff(dim=1).lt(0).any()  # once valid, always valid
    inputs = oracle_inputs(dexvla, batch, layout)
    positions, deltas = qwen(dexvla).model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"], attention_mask=layout.valid
    )
    assert torch.equal(layout.positions[:, layout.valid], positions[:, layout.valid])
    assert torch.equal(layout.after, layout.valid.sum(1) + deltas[:, 0])
    assert layout.image.sum(1).tolist() == [len(batch.images) * grid[0] * grid[1]] * batch.size


def test_a_text_without_its_image_items_is_refused(dexvla: DexVLA, batch: Batch) -> None:
    one = {role: image for role, image in list(batch.images.items())[:1]}
    with pytest.raises(ValueError, match=r"2, 2, 2.*1 views"):
        arrange(replace(batch, images=one), dexvla.config.image_id, dexvla.config.image_grid)


@pytest.mark.parametrize("size", [(240, 320), (56, 56), (480, 640), (20, 30), (30, 31)])
def test_patches_are_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size, mode="bilinear")[0].permute(1, 2, 0)
    image = (255 * smooth).round().to(torch.uint8).numpy()
    pixels = {"min_pixels": 56 * 56, "max_pixels": 16384 * 28 * 28}
    expected = Qwen2VLImageProcessorPil(**pixels)(image, return_tensors="np")
    prepared = resized(torch.from_numpy(image)[None], size, 28)
    ours = patches(prepared, 14, 2)[0]
    assert tuple(prepared.shape[2:]) == tuple(14 * expected["image_grid_thw"][0, 1:])
    level = 1 / 255 / 0.26
    difference = np.abs(ours.numpy() - expected["pixel_values"])
    assert difference.max() <= 2.01 * level
    assert difference.mean() < 0.02 * level


@pytest.mark.parametrize("size", [(240, 320), (5000, 9000), (10, 30), (28, 28), (42, 70), (3, 500)])
def test_sizes_are_those_of_transformers(size: tuple[int, int]) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as oracle

    limits = {"min_pixels": 56 * 56, "max_pixels": 16384 * 28 * 28}
    assert smart_resize(*size, 28) == oracle(*size, factor=28, **limits)
    with pytest.raises(ValueError, match="200"):
        smart_resize(1, 201, 28)

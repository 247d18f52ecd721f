"""Our towers and layout against transformers' own Qwen2-VL, with its processor's patches and its M-RoPE positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from visuomotor.backbones.base import ContextRequest
from visuomotor.backbones.qwen2_vl.arrangement import Arrangement, arrange
from visuomotor.backbones.qwen2_vl.images import patches, resized, smart_resize
from visuomotor.backbones.qwen2_vl.towers import read
from visuomotor.contract import Batch
from visuomotor.models.dexvla import NAMES, DexVLA
from visuomotor.text.grammar import Line


def qwen(model: DexVLA) -> Qwen2VLForConditionalGeneration:
    """transformers' model with the same weights."""
    text, vision = model.backbone.llm.config.to_dict(), model.backbone.vision.config.to_dict()
    ids = {"image_token_id": model.config.image_id, "tie_word_embeddings": True}
    oracle = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids)).eval()
    inner = {name: t for name, t in NAMES.state(model).items() if name.startswith(("model.", "visual."))}
    renamed = {f"model.language_{n}" if n.startswith("model.") else f"model.{n}": t for n, t in inner.items()}
    missing, unexpected = oracle.load_state_dict(renamed, strict=False)
    assert missing in ([], ["lm_head.weight"])
    assert not unexpected
    oracle.tie_weights()
    return oracle


def oracle_inputs(model: DexVLA, batch: Batch, layout: Arrangement) -> dict[str, Tensor]:
    """What transformers' processor would make of the batch."""
    config, tower = model.config, model.config.vision
    views, size = list(batch.images.values()), (config.image_height, config.image_width)
    factor = tower.patch_size * tower.merge
    pixels = [patches(resized(v, size, factor), tower.patch_size, tower.merge) for v in views]
    grid = [1, *(config.vision.merge * side for side in config.image_grid)]
    return {
        "input_ids": layout.slots.ids,
        "attention_mask": layout.slots.valid.long(),
        "mm_token_type_ids": layout.image.int(),
        "pixel_values": torch.stack(pixels, dim=1).flatten(0, 2),
        "image_grid_thw": torch.tensor([grid] * (batch.size * len(views))),
    }


def test_states_and_text_loss_are_those_of_transformers(dexvla: DexVLA, batch: Batch) -> None:
    layout = arrange(batch, dexvla.config.image_id, dexvla.config.image_grid)
    oracle = qwen(dexvla)
    labels = layout.slots.ids.where(layout.slots.loss, -100)
    with torch.no_grad():
        expected = oracle(**oracle_inputs(dexvla, batch, layout), labels=labels, output_hidden_states=True)
        states, _ = read(
            dexvla.backbone.llm, dexvla.backbone._embed(batch, layout), layout.positions, layout.slots.valid
        )
        text = dexvla.loss(batch).terms["text"]
    torch.testing.assert_close(
        states[layout.slots.valid], expected.hidden_states[-1][layout.slots.valid], atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(text.sum / text.count, expected.loss, atol=1e-5, rtol=1e-5)
    assert text.rows is not None
    torch.testing.assert_close(text.rows.sum(1)[0], text.sum)


def test_the_sequence_is_padded_on_the_left_and_positions_are_mrope(dexvla: DexVLA, batch: Batch) -> None:
    grid = dexvla.config.image_grid
    layout = arrange(batch, dexvla.config.image_id, grid)
    assert not layout.slots.valid.int().diff(dim=1).lt(0).any()  # once valid, always valid
    inputs = oracle_inputs(dexvla, batch, layout)
    positions, deltas = qwen(dexvla).model.get_rope_index(
        inputs["input_ids"], inputs["mm_token_type_ids"], inputs["image_grid_thw"], attention_mask=layout.slots.valid
    )
    assert torch.equal(layout.positions[:, layout.slots.valid], positions[:, layout.slots.valid])
    assert torch.equal(layout.after, layout.slots.valid.sum(1) + deltas[:, 0])
    assert layout.image.sum(1).tolist() == [len(batch.images) * grid[0] * grid[1]] * batch.size


def test_a_text_without_its_image_items_is_refused(dexvla: DexVLA, batch: Batch) -> None:
    one = {role: image for role, image in list(batch.images.items())[:1]}
    with pytest.raises(ValueError, match=r"\[2, 2, 2\] image items, but the rows have \[1, 1, 1\] views"):
        arrange(
            replace(batch, images=one, image_valid=batch.image_valid & torch.tensor([True, False])),
            dexvla.config.image_id,
            dexvla.config.image_grid,
        )


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


def test_states_of_named_layers_are_those_of_transformers(dexvla: DexVLA, batch: Batch) -> None:
    """At all slots, or at the last one of each prompt; what is written has them, too."""
    arranged = arrange(batch, dexvla.config.image_id, dexvla.config.image_grid)
    oracle, valid = qwen(dexvla), arranged.slots.valid
    with torch.no_grad():
        expected = oracle(**oracle_inputs(dexvla, batch, arranged), output_hidden_states=True).hidden_states
        context = dexvla.backbone.encode(batch, ContextRequest(layers=(0, 1, 2, -1)))
        prompt = dexvla.backbone.encode(batch, ContextRequest(layers=(1, -1), at="prompt"))
        last = (valid & ~arranged.answer).cumsum(1).argmax(1)
        for layer, states in context.states.items():
            torch.testing.assert_close(states[valid], expected[layer][valid], atol=1e-5, rtol=1e-5)
        for layer, states in prompt.states.items():
            chosen = expected[layer][torch.arange(batch.size), last]
            torch.testing.assert_close(states[:, 0], chosen, atol=1e-5, rtol=1e-5)
        written = dexvla.backbone.observe(batch, ContextRequest(layers=(0, -1)), text=True)
        slots = written.valid.shape[1]
        ids = dexvla.backbone.generate(written, 4)
    assert written.valid.shape[1] > slots
    assert {states.shape[1] for states in written.states.values()} == {written.valid.shape[1]}
    embedded = dexvla.backbone.llm.embed_tokens(ids[:, :-1])
    read_back = written.valid[:, slots:]
    assert torch.equal(written.states[0][:, slots:][read_back], embedded[read_back])


@pytest.mark.parametrize("request_", [ContextRequest(keys=True), ContextRequest(features=("prefix",))])
def test_keys_and_features_are_refused(dexvla: DexVLA, batch: Batch, request_: ContextRequest) -> None:
    with pytest.raises(ValueError, match="choose a head that reads states"):
        dexvla.backbone.encode(batch, request_)


def test_one_plain_answer_is_written_once(dexvla: DexVLA, batch: Batch) -> None:
    context = dexvla.encode(batch, text=True)
    none = torch.zeros(0, dtype=torch.int64)
    line = Line(header=none, length=3)
    for lines, sentence in (
        ((line, line), "one answer before it acts, not 2 lines"),
        ((Line(header=none.new_ones(2), length=3),), "neither a header nor a grammar"),
    ):
        with pytest.raises(ValueError, match=sentence):
            dexvla.write(context, lines)
    dexvla.write(context, (line,))
    for used in (context, dexvla.encode(batch)):
        with pytest.raises(ValueError, match=r"call encode\(batch, text=True\)"):
            dexvla.write(used, (line,))


def test_turns_that_do_not_see_each_other_are_refused(dexvla: DexVLA, batch: Batch) -> None:
    with pytest.raises(ValueError, match="one text in a row"):
        dexvla.encode(replace(batch, text_turn=torch.ones_like(batch.text_ids)))

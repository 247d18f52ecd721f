from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from visuomotor.contract import Batch
from visuomotor.models.dm0 import DM0
from visuomotor.models.dm0.names import NAMES
from visuomotor.models.dm0.published import PublishedDM0, from_published

DIMENSIONS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "vision_heads": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "action_dim": 3,
    "chunk_size": 4,
}
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def published(model: DM0) -> dict[str, Tensor]:
    """The names of a published file, unused output layers and progress tensors included."""
    extra = {
        "lm_head.weight": torch.zeros(40, 32),
        "model.action_expert.lm_head.weight": torch.zeros(30, 16),
        "model.progress_in_proj.weight": torch.zeros(16, 1),
        "model.progress_out_proj.bias": torch.zeros(1),
    }
    return {**NAMES.state(model), **extra}


@pytest.fixture
def converted(make_model: Callable[..., DM0]) -> PublishedDM0:
    return from_published(published(make_model(**{"llm.convolution": 0})), **DIMENSIONS)


@pytest.fixture
def inputs() -> Inputs:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 3, 32, 32, generator=generator)
    text_mask = torch.tensor([[True] * 6, [True, True, False, True, False, False]])
    return images, torch.ones(2, 3, dtype=torch.bool), torch.randint(40, (2, 6), generator=generator), text_mask


def test_equals_the_batch_interface(
    make_model: Callable[..., DM0], make_batch: Callable[..., Batch], converted: PublishedDM0
) -> None:
    batch = make_batch()
    images = torch.stack([image.permute(0, 3, 1, 2) / 127.5 - 1 for image in batch.images.values()], dim=1)
    batch.text_kind[batch.text_valid] = 1  # the published model knows no kinds
    noise = torch.randn(3, 4, 3)
    views = torch.ones(3, 2, dtype=torch.bool)
    found = converted.sample_actions(images, views, batch.text_ids, batch.text_valid, noise, steps=3)
    expected = make_model(**{"llm.convolution": 0}).sample(batch, noise=noise[:, None], steps=3).actions[:, 0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_masked_view_is_skipped_without_changing_the_result(converted: PublishedDM0, inputs: Inputs) -> None:
    images, views, ids, text = inputs
    views[:, 1] = False
    seen = []
    hook = converted.dm0.backbone.vision.tower.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    x, t = torch.randn(2, 4, 3), torch.tensor([0.2, 0.8])
    masked = converted.velocity(images, views, ids, text, x, t)
    hook.remove()
    absent = converted.velocity(images[:, [0, 2]], views[:, [0, 2]], ids, text, x, t)
    torch.testing.assert_close(masked, absent, atol=1e-6, rtol=1e-5)
    assert seen == [4]
    garbage = images.clone()
    garbage[:, 1] = 1e6
    torch.testing.assert_close(masked, converted.velocity(garbage, views, ids, text, x, t), atol=0, rtol=0)


def test_rows_may_lack_different_views(converted: PublishedDM0, inputs: Inputs) -> None:
    images, _, ids, text = inputs
    views = torch.tensor([[True, False, True], [False, True, True]])
    x, t = torch.randn(2, 4, 3), torch.tensor([0.2, 0.8])
    together = converted.velocity(images, views, ids, text, x, t)
    for row in range(2):
        part = slice(row, row + 1)
        alone = converted.velocity(
            images[part][:, views[row]], views[part][:, views[row]], ids[part], text[part], x[part], t[part]
        )
        torch.testing.assert_close(together[part], alone, atol=1e-5, rtol=1e-5)


def test_blind_rows_and_holes_in_the_text(converted: PublishedDM0, inputs: Inputs) -> None:
    images, views, ids, text = inputs
    x, t = torch.randn(2, 4, 3), torch.tensor([0.2, 0.8])
    blind = converted.velocity(images, torch.zeros_like(views), ids, text, x, t)
    assert blind.isfinite().all()
    packed = torch.stack([ids[1, [0, 1, 3]]])
    alone = converted.velocity(images[1:], views[1:], packed, torch.ones_like(packed, dtype=torch.bool), x[1:], t[1:])
    torch.testing.assert_close(converted.velocity(images, views, ids, text, x, t)[1:], alone, atol=1e-5, rtol=1e-5)


def test_reference_precision(make_model: Callable[..., DM0], converted: PublishedDM0, inputs: Inputs) -> None:
    mixed = from_published(published(make_model(**{"llm.convolution": 0})), **DIMENSIONS, precision="reference")
    wide = {name for name, p in mixed.published_parameters().items() if p.dtype == torch.float32}
    layers = [f"model.{tower}.layers.{i}." for tower in ("llm", "action_expert.model") for i in range(3)]
    assert wide == {
        *(layer + norm for layer in layers for norm in ("input_layernorm.weight", "post_attention_layernorm.weight")),
        "model.action_expert.model.norm.weight",
        *(
            f"model.action_{name}.{kind}"
            for name in ("in_proj", "out_proj", "time_mlp_in", "time_mlp_out")
            for kind in ("weight", "bias")
        ),
    }
    assert all(p.dtype in (torch.float32, torch.bfloat16) for p in mixed.parameters())
    noise = torch.randn(2, 4, 3)
    narrow, full = mixed.sample_actions(*inputs, noise), converted.sample_actions(*inputs, noise)
    assert narrow.dtype == torch.float32
    assert ((narrow - full).norm() / full.norm()).item() < 0.02


def test_wrong_checkpoints_are_named(make_model: Callable[..., DM0], inputs: Inputs) -> None:
    tensors = published(make_model(**{"llm.convolution": 0}))
    with pytest.raises(ValueError, match=r"missing \(model\.llm\.norm\.weight"):
        from_published({k: v for k, v in tensors.items() if k != "model.llm.norm.weight"}, **DIMENSIONS)
    with pytest.raises(ValueError, match=r"unexpected \(model\.extra"):
        from_published({**tensors, "model.extra": torch.zeros(1)}, **DIMENSIONS)
    with pytest.raises(ValueError, match="mismatched"):
        from_published(tensors, **{**DIMENSIONS, "action_dim": 4})
    with pytest.raises(ValueError, match="Not a published DM0"):
        from_published({}, **DIMENSIONS)
    with pytest.raises(ValueError, match="precision"):
        from_published(tensors, **DIMENSIONS, precision="half")  # type: ignore[arg-type]
    model = from_published(tensors, **DIMENSIONS)
    with pytest.raises(ValueError, match="disagree"):
        model.velocity(inputs[0], inputs[1][:, :2], inputs[2], inputs[3], torch.zeros(2, 4, 3), torch.ones(2))


def test_the_prefix_of_names_is_optional(
    make_model: Callable[..., DM0], converted: PublishedDM0, inputs: Inputs
) -> None:
    inner = {name.removeprefix("model."): t for name, t in NAMES.state(make_model(**{"llm.convolution": 0})).items()}
    model = from_published({**inner, "lm_head.weight": torch.zeros(40, 32)}, **DIMENSIONS)
    noise = torch.randn(2, 4, 3)
    torch.testing.assert_close(model.sample_actions(*inputs, noise), converted.sample_actions(*inputs, noise))


def test_progress_linears_are_kept_only_when_asked_for(make_model: Callable[..., DM0], inputs: Inputs) -> None:
    source = make_model(progress_token=True, **{"llm.convolution": 0})
    plain = from_published(NAMES.state(source), **DIMENSIONS)
    prog = from_published(NAMES.state(source), **DIMENSIONS, progress=True)
    noise, begin = torch.randn(2, 4, 3), torch.tensor([0.1, 0.7])
    # Without begin progress, DM0-Prog is DM0.
    torch.testing.assert_close(
        prog.sample_actions(*inputs, noise), plain.sample_actions(*inputs, noise), atol=0, rtol=0
    )
    actions, end = prog.sample_progress(*inputs, noise, begin)
    assert (actions - plain.sample_actions(*inputs, noise)).abs().max() > 1e-3
    assert end.shape == (2,)
    later = prog.sample_progress(*inputs, noise, torch.tensor([0.1, 0.9]))[1]
    assert later[0] == end[0]
    assert later[1] != end[1]
    with pytest.raises(ValueError, match="progress=True"):
        plain.sample_progress(*inputs, noise, begin)
    with pytest.raises(ValueError, match=r"missing \(model.progress_in_proj"):
        from_published(NAMES.state(make_model(**{"llm.convolution": 0})), **DIMENSIONS, progress=True)

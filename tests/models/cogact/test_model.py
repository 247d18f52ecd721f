from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from benchmarks.timing import count
from tests.models.cogact.conftest import rows_of
from visuomotor.backbones.base import ContextRequest
from visuomotor.contract import Batch
from visuomotor.models import config_from_json, config_to_json, make_config, make_model
from visuomotor.models.cogact import CogACT
from visuomotor.models.cost import sample_cost
from visuomotor.nn.diffusion import squared_cosine
from visuomotor.text.grammar import Line

Make = Callable[..., CogACT]
MakeBatch = Callable[..., Batch]


def test_the_loss_is_the_action_models_on_the_cognition_feature(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(mask_padded=False), make_batch()
    noise, time = torch.randn(3, 2, 4, 3), torch.randint(100, (3, 2))
    term = model.loss(batch, noise=noise, time=time, generator=torch.Generator().manual_seed(3)).terms["diffusion"]
    feature = model.encode(batch).states[-1]
    assert batch.actions is not None
    drawn = {"noise": noise, "time": time, "generator": torch.Generator().manual_seed(3)}
    expected = model.head.model.loss(batch.actions, feature, **drawn)
    torch.testing.assert_close(term.sum / term.count, expected)
    assert term.rows is not None
    torch.testing.assert_close(term.rows.sum(1), torch.stack([term.sum, term.count]).detach())


def test_only_valid_steps_count_and_weights_multiply(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    assert batch.action_valid is not None
    batch.action_valid[0, 2:] = False
    draws = {"noise": torch.randn(3, 2, 4, 3), "time": torch.randint(100, (3, 2))}

    def term(**changes: object) -> tuple[float, float]:
        found = model.loss(replace(batch, **changes), **draws, generator=torch.Generator().manual_seed(0))
        return found.terms["diffusion"].sum.item(), found.terms["diffusion"].count.item()

    total, counted = term()
    assert counted == 2 * (3 * 4 - 2) * 3
    moved = batch.actions.clone()
    moved[0, 2:] += 1  # padding reaches other steps only as input
    assert term(actions=moved)[1] == counted
    assert term(weights={"a": torch.full((3, 4), 2.0), "b": torch.full((3, 4), 1.5)}) == pytest.approx(
        (3 * total, counted), rel=1e-5
    )
    narrow = batch.action_valid.clone()
    narrow[..., 2] = False  # a dimension that the robot lacks is zero, and learnt
    assert term(action_valid=narrow) == (total, counted)
    nothing = torch.zeros_like(batch.action_valid)
    assert term(action_valid=nothing) == (0, 0)
    assert not model.loss(replace(batch, actions=None)).terms["diffusion"].sum.requires_grad


def test_everything_learns_but_what_no_feature_has_passed(make_model: Make, make_batch: MakeBatch) -> None:
    model = make_model()
    model.loss(make_batch()).total.backward()
    still = {name for name, p in model.named_parameters() if p.grad is None}
    last = {f"backbone.vision.{tower}.{part}" for tower in ("dinov2", "siglip") for part in ("norm.", "blocks.2.")}
    assert still
    assert all(name.startswith((*last, "head.model.history_embedder.")) for name in still)


@torch.no_grad()
def test_views_stand_one_after_the_other(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch(views=2)
    request = ContextRequest(layers=(-1,), at="prompt", features=("prefix",))
    found = model.backbone.observe(batch, request)
    one_view = {"image_valid": batch.image_valid[:, :1]}
    pixels = [replace(batch, images={name: image}, **one_view) for name, image in batch.images.items()]
    one, other = (model.backbone.observe(view, request) for view in pixels)
    assert found.features["prefix"].shape == (3, 2 * 5, 16)
    torch.testing.assert_close(
        found.features["prefix"], torch.cat([one.features["prefix"], other.features["prefix"]], dim=1)
    )
    assert not torch.allclose(found.states[-1], one.states[-1])
    swapped = replace(batch, images=dict(reversed(batch.images.items())))
    assert not torch.allclose(found.states[-1], model.encode(swapped).states[-1])


@torch.no_grad()
def test_sampling_follows_denoise_with_guidance(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    noise = torch.randn(3, 2, 4, 3)
    prefix, x, kept = model.encode(batch), noise, squared_cosine(100).alpha_bar
    nothing = replace(prefix, states={-1: model.head.model.z_embedder.uncondition.expand_as(prefix.states[-1])})
    for time in range(90, -1, -10):
        t = torch.full((3, 2), time)
        given, without = (model.denoise(p, x, t) for p in (prefix, nothing))
        eps, ab = without + 1.5 * (given - without), kept[time]
        before = kept[time - 10] if time else torch.tensor(1.0)
        x = before.sqrt() * (x - (1 - ab).sqrt() * eps) / ab.sqrt() + (1 - before).sqrt() * eps
    found = model.sample(batch, noise=noise).actions
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.sample(batch, prefix=prefix, noise=noise).actions, found)
    assert not torch.allclose(model.sample(batch, noise=noise, guidance=1.0).actions, found)
    assert not torch.allclose(model.sample(batch, noise=noise, steps=5).actions, found)


@torch.no_grad()
def test_a_chunk_does_not_depend_on_its_batch(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch(views=2)  # row 1 is padded
    noise = torch.randn(3, 1, 4, 3)
    together = model.sample(batch, noise=noise).actions
    for row in range(3):
        alone = rows_of(batch, row)
        torch.testing.assert_close(
            model.sample(alone, noise=noise[row : row + 1]).actions[0], together[row], atol=1e-4, rtol=1e-4
        )


def test_sampling_never_makes_the_host_wait(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch(views=2)
    noise = torch.randn(3, 1, 4, 3)
    model.sample(batch, noise=noise)  # the schedule's table is moved to the device once
    seen = count(lambda: model.sample(batch, noise=noise))
    assert seen.operations > 100
    assert seen.synchronising == 0
    assert count(lambda: model.loss(batch)).synchronising >= 1  # the counter sees what it is there for


def test_the_guidance_pair_is_one_batch(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch, rows = make_model(), make_batch(), []
    for block in model.head.model.blocks:
        block.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    model.sample(batch, noise=torch.randn(3, 2, 4, 3))
    assert rows == [12] * 20  # 2 blocks, 10 steps; 3 observations, 2 samples, with and without condition


def test_sampling_compiles_without_a_graph_break(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(denoise_steps=2, **{"llm.layers": 1, "action_model.depth": 1}), make_batch()
    noise = torch.randn(3, 1, 4, 3)

    def actions(noise: torch.Tensor) -> torch.Tensor:
        return model.sample(batch, noise=noise).actions

    torch._dynamo.reset()
    compiled = torch.compile(actions, fullgraph=True, backend="eager", dynamic=False)
    torch.testing.assert_close(compiled(noise), actions(noise), atol=1e-5, rtol=1e-5)


def test_text_is_refused(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    line = Line(header=batch.text_ids[0, :1], length=3)
    for asked in ({"lines": (line,)}, {"generate": 2}, {"flow": False}):
        with pytest.raises(ValueError, match="writes no text"):
            model.sample(batch, **asked)


def test_parts_are_disjoint_and_cover_everything(make_model: Make) -> None:
    model = make_model()
    parts = model.parts()
    assert list(parts) == ["vision", "projector", "llm", "embed", "action_model"]
    ids = [id(p) for part in parts.values() for p in part]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert set(sample_cost(model, 1, 20, 10)) == set(parts) - {"embed"}


def test_base_is_the_published_model() -> None:
    config = make_config("cogact", "base")
    with torch.device("meta"):
        model = make_model("cogact", config)
        llama = LlamaModel(LlamaConfig(vocab_size=32064))
    sizes = {name: sum(p.numel() for p in part) for name, part in model.parts().items()}
    assert sizes["action_model"] == 88_986_887
    assert sizes["llm"] + sizes["embed"] == sum(p.numel() for p in llama.parameters())
    assert sizes["projector"] == 8704 * 2177 + 4096 * 8705 + 4096 * 4097
    assert (config.num_views, config.horizon, config.action_dim, config.guidance, config.denoise_steps) == (
        1, 16, 7, 1.5, 10,
    )  # fmt: skip
    head = config.action_model
    assert (head.repeated_diffusion_steps, head.unconditional_dropout, head.token_size) == (8, 0.1, 4096)
    cost = sample_cost(model, 1, 20, 10)  # nearly all of a language model's work is two operations a weight and token
    assert cost["llm"].flops == pytest.approx(2 * (256 + 20) * sizes["llm"] * 31 / 32, rel=0.03)
    assert cost["action_model"].flops == pytest.approx(2 * 10 * 2 * 17 * sizes["action_model"], rel=0.05)


def test_configurations() -> None:
    config = make_config("cogact", "nano", **{"action_model.horizon": 4, "dinov2.layer_scale": None})
    assert config_from_json(config_to_json("cogact", config)) == ("cogact", config)
    with pytest.raises(ValueError, match="No whole stride takes 11"):
        make_config("cogact", denoise_steps=11)
    with pytest.raises(ValueError, match=r"^action_model: Width 96 does not split into 5 heads"):
        make_config("cogact", **{"action_model.heads": 5})
    with pytest.raises(ValueError, match="look at the same patches"):
        make_config("cogact", **{"dinov2.image_size": 48})
    assert make_config("cogact", **{"llm.width": 64}).action_model.token_size == 64
    with pytest.raises(ValueError, match=r"action_model\.token_size follows from other fields"):
        make_config("cogact", **{"action_model.token_size": 64})
    with pytest.raises(ValueError, match="second-to-last"):
        make_config("cogact", **{"siglip.layers": 1})

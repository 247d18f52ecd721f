"""Properties that DexVLA and its Stage 1 share with other models: weights, rows, views, gradients, chunk guidance."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.dexvla.conftest import TINY_UNET_HEAD, make_texts
from tests.models.dexvla.test_expert import ROBOTS, make, make_batch, perturbed
from visuomotor.contract import Batch, Losses
from visuomotor.models import make_config, make_model
from visuomotor.models.dexvla import DexVLAExpert
from visuomotor.models.vla import VLA
from visuomotor.nn.guidance import Guidance

TEXTS = [([5, 6, 7], [8, 9, 2]), ([5, 6, 7, 10, 11], [12, 2]), ([5], [2]), ([13, 14], [15, 2])]
PRESENT = [[True, True], [True, False], [False, True], [False, False]]
MODELS = ("scaledp", "unet", "expert")


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest, make_dexvla: Callable[..., Any]) -> tuple[VLA, Batch]:
    """A model, and four rows that have both of its views."""
    if request.param == "expert":
        return perturbed(make(**ROBOTS)).eval(), make_batch((0, 1, 0, 1))
    return make_dexvla(**({"head": TINY_UNET_HEAD} if request.param == "unet" else {})), make_texts(TEXTS)


def cut(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a batch."""

    return replace(batch.map(lambda tensor: tensor[rows]), rows=None)  # which views are there is asked anew


def draws_for(model: VLA, batch: Batch) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    assert batch.actions is not None
    shape = (batch.size, 2, *batch.actions.shape[1:])
    noise = torch.randn(shape, generator=generator)
    return {"noise": noise, "time": torch.randint(100, shape[:2], generator=generator)}


def loss(model: VLA, batch: Batch, **draws: Tensor) -> Losses:
    return model.loss(batch, **(draws or draws_for(model, batch)))


# Step weights -------------------------------------------------------------------------------------------------------


def test_each_weight_of_the_batch_multiplies_its_step(case: tuple[VLA, Batch]) -> None:
    model, batch = case
    assert batch.actions is not None
    ones = torch.ones(batch.actions.shape[:2])
    plain = loss(model, batch).terms["diffusion"]
    for factors in ((2.0, 1.0), (4.0, 0.5)):
        weights = {name: factor * ones for name, factor in zip(("emphasis", "trajectory"), factors, strict=True)}
        doubled = loss(model, replace(batch, weights=weights)).terms["diffusion"]
        torch.testing.assert_close(doubled.sum, 2 * plain.sum)
        assert doubled.count == plain.count
        assert doubled.rows is not None
        assert plain.rows is not None
        torch.testing.assert_close(doubled.rows[0], 2 * plain.rows[0])


def test_a_step_of_weight_0_teaches_nothing(case: tuple[VLA, Batch]) -> None:
    """Its target is another one, the noised chunk that the network sees is the same."""
    model, batch = case
    assert batch.actions is not None
    weight = torch.ones(batch.actions.shape[:2])
    weight[1, 2] = 0
    draws = {name: t[:, :1] for name, t in draws_for(model, batch).items()}
    signal, sigma = model.head.denoiser._schedule.scales(draws["time"][1, 0], torch.zeros(()))  # type: ignore[union-attr]
    noise, actions = draws["noise"].clone(), batch.actions.clone()
    noise[1, :, 2] += 1
    actions[1, 2] -= sigma / signal
    for weights, same in (({"emphasis": weight}, True), ({}, False)):
        weighted = replace(batch, weights=weights)
        plain = loss(model, weighted, **draws).terms["diffusion"].sum
        moved = loss(model, replace(weighted, actions=actions), noise=noise, time=draws["time"]).terms["diffusion"].sum
        assert torch.allclose(moved, plain, rtol=1e-4) == same


# Rows ---------------------------------------------------------------------------------------------------------------


def test_rows_without_actions_do_not_reach_the_head(case: tuple[VLA, Batch]) -> None:
    model, batch = case
    assert batch.action_valid is not None
    valid = batch.action_valid.clone()
    valid[[0, 2]] = False
    sizes = []
    hook = model.head.denoiser.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))  # type: ignore[union-attr]
    draws = draws_for(model, batch)
    mixed = loss(model, replace(batch, action_valid=valid), **draws).terms["diffusion"]
    assert sizes == [2 * 2]
    assert mixed.rows is not None
    assert not mixed.rows[:, [0, 2]].any()
    rows = cut(batch, [1, 3])
    alone = loss(model, rows, **{name: t[[1, 3]] for name, t in draws.items()}).terms["diffusion"]
    torch.testing.assert_close(mixed.sum, alone.sum)
    assert mixed.count == alone.count
    loss(model, replace(batch, action_valid=torch.zeros_like(valid)), **draws)
    hook.remove()
    assert len(sizes) == 2


def mixed_batch(model: VLA) -> Batch:
    """Four rows: both views, one of them, the other, none."""
    if isinstance(model, DexVLAExpert):
        return replace(make_batch((0, 1, 0, 1)), image_valid=torch.tensor(PRESENT))
    return make_texts(TEXTS, present=PRESENT)


def test_rows_of_different_views_are_what_each_is_alone(case: tuple[VLA, Batch]) -> None:
    model, batch = case[0], mixed_batch(case[0])
    draws, sizes = draws_for(model, batch), []
    mixed = loss(model, batch, **draws)
    sampled = model.sample(batch, noise=draws["noise"], steps=3).actions
    for i, views in enumerate(PRESENT):
        row = cut(batch, [i])
        images = {role: view for (role, view), there in zip(row.images.items(), views, strict=True) if there}
        row = replace(row, images=images)
        alone = loss(model, row, **{name: t[i : i + 1] for name, t in draws.items()})
        for name, term in alone.terms.items():
            whole = mixed.terms[name].rows
            assert whole is not None
            torch.testing.assert_close(whole[:, i], torch.stack([term.sum, term.count]).detach())
            sizes.append(name)
        again = model.sample(row, noise=draws["noise"][i : i + 1], steps=3).actions
        torch.testing.assert_close(sampled[i], again[0], atol=1e-5, rtol=1e-4)
    assert len(sizes) == len(PRESENT) * len(mixed.terms)


def test_a_masked_view_is_an_absent_one(case: tuple[VLA, Batch]) -> None:
    """Pixels of a view that a row lacks change nothing, and are not computed."""
    model, batch = case[0], mixed_batch(case[0])
    noise = draws_for(model, batch)["noise"]
    lacking = [[i for i, row in enumerate(PRESENT) if not row[view]] for view in range(2)]
    changed = {role: images.clone() for role, images in batch.images.items()}
    for images, rows in zip(changed.values(), lacking, strict=True):
        images[rows] = 255 - images[rows]
    other = replace(batch, images=changed)
    assert torch.equal(model.sample(batch, noise=noise).actions, model.sample(other, noise=noise).actions)


# Gradients ----------------------------------------------------------------------------------------------------------


def gradients(model: VLA, batch: Batch, name: str) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    loss(model, batch).terms[name].sum.backward()
    return {key: p.grad for key, p in model.named_parameters()}


@pytest.mark.parametrize("head", [{}, {"head": TINY_UNET_HEAD}], ids=["scaledp", "unet"])
def test_decoupling_stops_the_action_loss_in_front_of_the_vlm(make_dexvla: Callable[..., Any], head: dict) -> None:
    plain, decoupled = (make_dexvla(**head, gradient_decoupling=on) for on in (False, True))
    batch = make_texts(TEXTS)
    for name, term in loss(plain, batch).terms.items():
        assert torch.equal(term.sum, loss(decoupled, batch).terms[name].sum)
    stopped = gradients(decoupled, batch, "diffusion")
    assert all((grad is None) == name.startswith("backbone.") for name, grad in stopped.items())
    taught = gradients(decoupled, batch, "text")
    assert all((grad is not None) == name.startswith("backbone.") for name, grad in taught.items())
    assert any(grad is not None for name, grad in gradients(plain, batch, "diffusion").items() if "backbone" in name)


def test_decoupling_of_one_source(make_dexvla: Callable[..., Any]) -> None:
    model = make_dexvla(gradient_decoupling=True, decoupled_sources=(1,))
    sources = torch.tensor([0, 1, 0, 1])
    batch = make_texts(TEXTS, source=sources)
    together = gradients(model, batch, "diffusion")
    draws = draws_for(model, batch)
    free = make_dexvla()
    rows = [0, 2]
    terms = loss(free, cut(batch, rows), **{name: t[rows] for name, t in draws.items()}).terms
    terms["diffusion"].sum.backward()
    for name, parameter in free.named_parameters():
        if name.startswith("backbone."):
            torch.testing.assert_close(together[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_combinations_without_meaning_are_refused() -> None:
    for changes, sentence in (
        ({"gradient_decoupling": True, "text_weight": 0.0}, "nothing would train the language model; switch"),
        ({"decoupled_sources": (0,)}, "gradient_decoupling is off; switch it on"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make_config("dexvla", **changes)
    with pytest.raises(ValueError, match="gradient_decoupling"):
        make_config("dexvla-expert", gradient_decoupling=True)


def test_a_language_model_that_stands_still_costs_no_gradients(make_dexvla: Callable[..., Any]) -> None:
    model = make_dexvla().train()
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    losses = loss(model, make_texts(TEXTS))
    assert losses.terms["text"].count == 0
    losses.total.backward()
    assert all(p.grad is not None for p in model.head.parameters())


# Real-time chunking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["guided", "identity"])
def test_a_chunk_is_pulled_to_what_was_planned(
    case: tuple[VLA, Batch], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = case
    assert batch.actions is not None
    denoiser = model.head.denoiser
    noise = draws_for(model, batch)["noise"]
    free = Guidance(target=batch.actions, weights=torch.zeros_like(batch.actions), kind=kind)
    plain, guided = (model.sample(batch, noise=noise, chunk_guidance=g).actions for g in (None, free))
    torch.testing.assert_close(guided, plain, atol=1e-3, rtol=1e-3)

    def predictor(*_: object) -> Callable[[Tensor, Tensor], Tensor]:
        """The noise in chunks whose data is normal with deviation 0.5; a network with random weights knows no data."""

        def predict(x: Tensor, t: Tensor) -> Tensor:
            signal, sigma = denoiser._schedule.scales(t, x)  # type: ignore[union-attr]
            return sigma * x / (0.25 * signal.square() + sigma.square())

        return predict

    monkeypatch.setattr(denoiser, "predictor", predictor)
    target = torch.full_like(batch.actions, 0.4)
    width = 3  # of the narrowest robot
    weights = torch.zeros_like(target)
    weights[:, :2, :width] = 1

    def distance(guidance: Guidance | None) -> Tensor:
        sampled = model.sample(batch, noise=noise, chunk_guidance=guidance).actions
        assert sampled.shape == noise.shape
        assert bool((sampled.abs() <= 1).all())
        return (sampled - target[:, None])[:, :, :2, :width].abs().mean()

    assert kind in model.chunk_guidance
    assert distance(Guidance(target=target, weights=weights, kind=kind)) < 0.5 * distance(None)


def test_guidance_by_given_actions_is_refused(case: tuple[VLA, Batch]) -> None:
    model, batch = case
    assert batch.actions is not None
    guidance = Guidance(target=batch.actions, weights=torch.ones_like(batch.actions), kind="prefix")
    with pytest.raises(ValueError, match="no 'prefix' guidance; it takes guided, identity"):
        model.sample(batch, chunk_guidance=guidance)


def test_units_are_layers_of_the_model() -> None:
    with torch.device("meta"):
        model = make_model("dexvla", make_config("dexvla"))
        expert = make_model("dexvla-expert", make_config("dexvla-expert"))
    assert isinstance(model, VLA)
    assert isinstance(expert, VLA)
    assert len(model.units()) == 3 + 4 + 4
    assert len(expert.units()) == 4

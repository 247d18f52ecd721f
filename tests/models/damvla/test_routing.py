from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from benchmarks.timing import count
from tests.models.cogact.conftest import rows_of
from visuomotor.contract import Batch, Sampled
from visuomotor.models.cogact import CogACT
from visuomotor.models.damvla import DAMVLA
from visuomotor.models.damvla.head import Routed
from visuomotor.models.damvla.parts import Router
from visuomotor.nn.guidance import Guidance, prefix_weights

Make = Callable[..., DAMVLA]
Weighed = Callable[..., Batch]
NOISE = torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(1))


def look(model: DAMVLA, batch: Batch) -> Routed:
    return model.head.route(model.encode(batch))


def sample(model: DAMVLA, routed: Routed, noise: torch.Tensor) -> Sampled:
    """Chunks of looks whose choice is given."""
    model.head.route = lambda _: routed
    return model.head.sample(None, noise)  # type: ignore[arg-type]


def denoise(model: DAMVLA, routed: Routed, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    model.head.route = lambda _: routed
    return model.head.denoise(None, x, t)  # type: ignore[arg-type]


def at(prefix: Routed, probability: list[float]) -> Routed:
    chance = torch.tensor(probability)
    return replace(prefix, probability=chance, gripper=chance >= 0.5)


@torch.no_grad()
@pytest.mark.parametrize("probability", [[0.1, 0.9, 0.5], [0.1, 0.2, 0.3], [0.6, 0.7, 0.8]])
def test_routing_a_batch_is_routing_each_look(make_damvla: Make, weighed: Weighed, probability: list[float]) -> None:
    model, batch = make_damvla(), weighed()
    prefix = at(look(model, batch), probability)
    together = sample(model, prefix, NOISE)
    for row, chance in enumerate(probability):
        head = model.head.heads[chance >= 0.5]
        z = prefix.conditions[chance >= 0.5][row : row + 1]
        alone = head.sample(z.expand(2, -1, -1), NOISE[row])
        torch.testing.assert_close(together.actions[row], alone, atol=1e-5, rtol=1e-5)
        own = Routed(
            conditions=tuple(c[row : row + 1] for c in prefix.conditions),
            probability=torch.tensor([chance]),
            gripper=torch.tensor([chance >= 0.5]),
        )
        single = sample(model, own, NOISE[row : row + 1])
        torch.testing.assert_close(together.actions[row], single.actions[0], atol=1e-5, rtol=1e-5)
    assert together.extras["head"].tolist() == [int(chance >= 0.5) for chance in probability]
    assert together.extras["router"].tolist() == pytest.approx(probability)


@torch.no_grad()
def test_a_look_is_encoded_as_if_it_were_alone(make_damvla: Make, weighed: Weighed) -> None:
    model, batch = make_damvla(num_views=2), weighed(views=2)
    together = look(model, batch)
    for row in range(3):
        alone = look(model, rows_of(batch, row))
        for a, b in (
            (alone.probability, together.probability),
            *zip(alone.conditions, together.conditions, strict=True),
        ):
            torch.testing.assert_close(a[0], b[row], atol=1e-5, rtol=1e-5)  # type: ignore[index]


@torch.no_grad()
def test_soft_routing_mixes_what_both_predict(make_damvla: Make, weighed: Weighed) -> None:
    soft, hard, batch = make_damvla(routing="soft"), make_damvla(), weighed()
    prefix, t = look(soft, batch), torch.full((3, 2), 40)
    arm, gripper = (denoise(hard, at(prefix, [p] * 3), NOISE, t) for p in (0.0, 1.0))
    share = torch.tensor([0.0, 0.25, 1.0])[:, None, None, None]
    found = denoise(soft, at(prefix, [0.0, 0.25, 1.0]), NOISE, t)
    torch.testing.assert_close(found, (1 - share) * arm + share * gripper, atol=1e-5, rtol=1e-5)
    sure = at(prefix, [0.0, 1.0, 1.0])
    a, b = (sample(m, sure, NOISE).actions for m in (soft, hard))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    unsure = at(prefix, [0.4, 0.6, 0.5])
    assert not torch.allclose(sample(soft, unsure, NOISE).actions, b)


@torch.no_grad()
def test_hysteresis_keeps_the_head_that_acted(make_damvla: Make, weighed: Weighed) -> None:
    model, batch = make_damvla(hysteresis=0.2), weighed()
    assert model.head.router is not None
    for logit, expected in ((0.45, [0, 1, 0]), (0.55, [0, 1, 1]), (0.71, [1, 1, 1]), (0.29, [0, 0, 0])):
        model.head.router.layers.weight.zero_()  # type: ignore[union-attr,operator]
        model.head.router.layers.bias.fill_(torch.tensor(logit).logit())  # type: ignore[union-attr,operator]
        before = replace(batch, labels={"head": torch.tensor([0, 1, -1])})
        assert model.sample(before, noise=NOISE).extras["head"].tolist() == expected
        plain = make_damvla()
        plain.load_state_dict(model.state_dict())
        assert plain.sample(before, noise=NOISE).extras["head"].tolist() == [int(logit >= 0.5)] * 3


def test_denoising_has_a_gradient_through_both_heads(make_damvla: Make, weighed: Weighed) -> None:
    model, batch = make_damvla(), weighed()
    prefix = at(look(model, batch), [0.1, 0.9, 0.2])
    x = NOISE.clone().requires_grad_()
    denoise(model, prefix, x, torch.full((3, 2), 30)).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


@torch.no_grad()
def test_each_head_is_told_its_own_tokens(make_damvla: Make, weighed: Weighed) -> None:
    batch = weighed()
    model = make_damvla()
    seen = model.encode(batch)
    feature, prefix = seen.states[-1], seen.features["prefix"]
    arm, gripper = look(model, batch).conditions
    torch.testing.assert_close(arm[:, 0], torch.cat([feature[:, 0], prefix[:, 0]], dim=-1))
    torch.testing.assert_close(gripper[:, 0], torch.cat([feature[:, 0], prefix[:, 1:].flatten(1)], dim=-1))
    (single,) = look(make_damvla(dam=False, dl=False), batch).conditions
    torch.testing.assert_close(single[:, 0], torch.cat([feature[:, 0], prefix.flatten(1)], dim=-1))
    pooled = look(make_damvla(register_pooling="mean"), batch).conditions[1]
    torch.testing.assert_close(pooled[:, 0], torch.cat([feature[:, 0], prefix[:, 1:].mean(1)], dim=-1))


@torch.no_grad()
def test_a_missing_view_leaves_its_place(make_damvla: Make, weighed: Weighed) -> None:
    model, both = make_damvla(num_views=2), weighed(views=2)
    one = replace(
        both, images={"camera1": both.images["camera1"]}, image_valid=both.image_valid * torch.tensor([False, True])
    )
    arm = look(model, one).conditions[0]
    tokens = model.encode(one).features["prefix"]
    torch.testing.assert_close(arm[:, 0, 24:], torch.cat([torch.zeros(3, 16), tokens[:, 0]], dim=-1))
    with pytest.raises(ValueError, match="those of 2 views, but the batch has room for 1"):
        look(model, weighed())


def test_unconditional_draws_drop_the_visual_tokens_too(make_damvla: Make) -> None:
    z, drop = torch.randn(2, 1, 24 + 16), torch.tensor([True, False])
    for mode, blind in (("all", True), ("feature", False)):
        embed = make_damvla(visual_dropout=mode).head.arm.z_embedder
        other = z.clone()
        other[..., 24:] += torch.randn(16)
        assert torch.equal(embed(z, drop)[0], embed(other, drop)[0]) == blind
        assert not torch.equal(embed(z, drop)[1], embed(other, drop)[1])
        changed = z.clone()
        changed[..., :24] += 1
        assert torch.equal(embed(z, drop)[0], embed(changed, drop)[0])


def test_gradients_into_the_tower_are_a_choice(make_damvla: Make, weighed: Weighed) -> None:
    reached = []
    for on in (True, False):
        model = make_damvla(visual_gradient=on)
        model.head.look(model.backbone.encode(weighed(), model.head.request))[0][1][..., 24:].sum().backward()
        gradient = model.backbone.vision.get_parameter("dinov2.reg_token").grad
        reached.append(gradient is not None and bool(gradient.any()))
    assert reached == [True, False]


def test_a_softmax_of_two_is_the_sigmoid_of_their_difference() -> None:
    for hidden in (0, 8):
        router, latent = Router(6, output="softmax", hidden=hidden), torch.randn(5, 1, 6)
        two = router.layers(router.norm(latent[:, 0]))
        torch.testing.assert_close(router(latent).sigmoid(), two.softmax(-1)[:, 1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert Router(6)(torch.randn(2, 1, 6).bfloat16()).dtype == torch.float32


def test_both_heads_start_from_a_cogact_s(
    make_damvla: Make, make_cogact: Callable[..., CogACT], weighed: Weighed
) -> None:
    plain, model, batch = make_cogact(), make_damvla(fresh=True), weighed()
    taken = model.adopt(plain.state_dict())
    report = model.load_state_dict(taken, strict=False)
    assert not report.unexpected_keys
    assert all(".visual_" in name or name.startswith("head.router.") for name in report.missing_keys)
    expected = plain.sample(batch, noise=NOISE).actions
    prefix = look(model, batch)
    for chances in ([0.0] * 3, [1.0] * 3):  # whichever head acts, a fresh one is CogACT's
        found = sample(model, at(prefix, chances), NOISE).actions
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    whole = make_damvla()
    assert whole.adopt(model.state_dict()).keys() == model.state_dict().keys()


def test_the_host_waits_for_the_choice_alone(make_damvla: Make, weighed: Weighed) -> None:
    batch = weighed()
    for options, waits in (({}, 2), ({"routing": "soft"}, 0), ({"dam": False, "dl": False}, 0)):
        model = make_damvla(**options)
        prefix = model.encode(batch)
        model.sample(batch, prefix=prefix, noise=NOISE)
        assert count(lambda: model.sample(batch, noise=NOISE)).synchronising == waits  # noqa: B023


@torch.no_grad()
def test_rows_with_other_views_are_as_if_each_were_alone(make_damvla: Make, weighed: Weighed) -> None:
    model, batch = make_damvla(num_views=2), weighed(views=2)
    batch = replace(batch, image_valid=torch.tensor([[True, True], [False, True], [True, False]]))
    together = look(model, batch)
    for row in range(3):
        alone = look(model, rows_of(batch, row))
        for a, b in zip(alone.conditions, together.conditions, strict=True):
            torch.testing.assert_close(a[0], b[row], atol=1e-5, rtol=1e-5)
    none = replace(batch, images={}, image_valid=torch.zeros(3, 2, dtype=torch.bool))
    assert not look(model, none).conditions[0][..., 24:].any()


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"routing": "soft"}, {"dam": False, "dl": False}])
def test_a_chunk_goes_on_from_the_one_that_runs(make_damvla: Make, weighed: Weighed, options: dict) -> None:
    model, batch = make_damvla(**options), weighed()
    free = model.sample(batch, noise=NOISE).actions
    weights = prefix_weights(2, 2, 4)[None, :, None].repeat(3, 1, 3)
    weights[1] = 0
    for kind in model.chunk_guidance:
        guidance = Guidance(target=torch.full((3, 4, 3), 0.5), weights=weights, kind=kind)
        tied = model.sample(batch, noise=NOISE, chunk_guidance=guidance).actions
        torch.testing.assert_close(tied[1], free[1], atol=1e-3, rtol=1e-3)
        gap = (tied[:, :, :2] - 0.5).abs().mean((1, 2, 3)) / (free[:, :, :2] - 0.5).abs().mean((1, 2, 3))
        assert (gap[[0, 2]] < 0.7).all()

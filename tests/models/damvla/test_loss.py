from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from visuomotor.contract import Batch
from visuomotor.heads.base import Targets
from visuomotor.models.cogact import CogACT
from visuomotor.models.damvla import DAMVLA, switches
from visuomotor.models.damvla.losses import SCALES, weights_by_head

Make = Callable[..., DAMVLA]
Weighed = Callable[..., Batch]
OFF = switches("base")
NOISE = torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(1))
TIME = torch.arange(6).view(3, 2) * 17


def seeded(seed: int = 5) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def targets(batch: Batch) -> Targets:
    found = Targets.of(batch)
    assert found is not None
    return found


def gradients(model: torch.nn.Module) -> dict[str, float | None]:
    return {n: None if p.grad is None else float(p.grad.abs().max()) for n, p in model.named_parameters()}


@pytest.mark.parametrize("mask_padded", [True, False])
def test_all_switches_off_is_cogact_bit_for_bit(
    make_damvla: Make, make_cogact: Callable[..., CogACT], make_batch: Callable, weighed: Weighed, mask_padded: bool
) -> None:
    plain, model = make_cogact(mask_padded=mask_padded), make_damvla(**OFF, mask_padded=mask_padded)
    model.load_state_dict(model.adopt(plain.state_dict()))
    near = {"near": torch.rand(3, 4)}  # which both multiply; what is switched off needs no weights and reads none
    more = replace(weighed(), weights={**weighed().weights, **near})
    for batch in (make_batch(), weighed(), more, replace(weighed(views=2), weights={})):
        # What the switches read counts nothing where they are off; a CogACT has no switches, and all counts.
        others = replace(batch, weights={name: w for name, w in batch.weights.items() if name not in SCALES})
        theirs, ours = plain.loss(others, generator=seeded()), model.loss(batch, generator=seeded())
        assert list(theirs.terms) == list(ours.terms) == ["diffusion"]
        for name in ("sum", "count", "rows", "weight"):
            a, b = (torch.as_tensor(getattr(losses.terms["diffusion"], name)) for losses in (theirs, ours))
            assert torch.equal(a, b)
        for m, losses in ((plain, theirs), (model, ours)):
            m.zero_grad()
            losses.total.backward()
        for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
            assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad), name  # type: ignore[arg-type]
        a, b = (m.sample(batch, num_samples=2, generator=seeded()) for m in (plain, model))
        assert torch.equal(a.actions, b.actions)
        assert a.extras == b.extras == {}


def test_fresh_visual_tokens_change_nothing(make_damvla: Make, weighed: Weighed) -> None:
    batch = weighed()
    with_tokens, without = make_damvla(fresh=True), make_damvla(fresh=True, vt=False)
    for model in (with_tokens, without):
        for head in model.head.heads:
            torch.nn.init.normal_(head.final_layer.linear.weight, std=0.2, generator=seeded())
    report = with_tokens.load_state_dict(without.state_dict(), strict=False)
    assert report.missing_keys
    assert all(".visual_" in name for name in report.missing_keys)
    losses = [model.loss(batch, generator=seeded()).terms for model in (with_tokens, without)]
    for name in ("move", "mani", "router"):
        assert torch.equal(losses[0][name].sum, losses[1][name].sum)
    a, b = (model.sample(batch, generator=seeded()).actions for model in (with_tokens, without))
    assert torch.equal(a, b)
    lively = make_damvla()
    assert not torch.equal(lively.sample(batch, generator=seeded()).actions, b)


def test_the_three_losses_are_the_specification_s(make_damvla: Make, weighed: Weighed) -> None:
    model, batch = make_damvla(vt=False, mask_padded=False, router_weight=0.5), weighed()
    losses = model.loss(batch, noise=NOISE, time=TIME, generator=seeded())
    seen = model.encode(batch)
    trajectory, chunk = batch.weights["trajectory"], batch.weights["chunk"]
    expected, drops = [], seeded()
    for head, weight in zip(model.head.heads, ((1 - trajectory) * chunk, trajectory * chunk), strict=True):
        drop = torch.rand((3, 2), generator=drops) < 0.1
        assert batch.actions is not None
        errors = head.squared_errors(batch.actions, seen.states[-1], noise=NOISE, time=TIME, drop=drop)
        expected.append((errors * weight[:, None, :, None]).sum() / (3 * 2 * 4 * 3))
    probability = torch.sigmoid(model.head.router(seen.states[2]))  # type: ignore[misc]
    entropy = -torch.stack([1 - probability[0], probability[1], 1 - probability[2]]).log().mean()
    found = [losses.terms[name] for name in ("move", "mani", "router")]
    for term, value, factor in zip(found, (*expected, entropy), (1.0, 1.0, 0.5), strict=True):
        torch.testing.assert_close(term.sum / term.count, value)
        assert term.weight == factor
        assert term.rows is not None
        torch.testing.assert_close(term.rows.sum(1), torch.stack([term.sum, term.count.to(term.sum)]).detach())
    torch.testing.assert_close(losses.total, expected[0] + expected[1] + 0.5 * entropy)


def test_each_head_has_draws_of_its_own(make_damvla: Make, weighed: Weighed) -> None:
    weights = {"chunk": torch.ones(3, 4), "trajectory": torch.full((3, 4), 0.5)}
    model, batch = make_damvla(vt=False), replace(weighed(), weights=weights)
    assert model.head.gripper is not None
    model.head.gripper.load_state_dict(model.head.arm.state_dict())  # so that nothing else tells them apart
    drop = {"unconditional_dropout": 0.0}
    for given, same in (({}, False), ({"noise": NOISE, "time": TIME}, True)):
        for head in model.head.heads:
            head.config = replace(head.config, **drop)
        terms = model.loss(batch, generator=seeded(), **given).terms
        assert torch.equal(terms["move"].sum, terms["mani"].sum) == same


def test_a_chunk_without_manipulation_leaves_the_gripper_head_alone(make_damvla: Make, weighed: Weighed) -> None:
    batch = weighed()
    for trajectory, still, learns in ((0.0, "head.gripper", "head.arm"), (1.0, "head.arm", "head.gripper")):
        model = make_damvla()
        weights = {**batch.weights, "trajectory": torch.full((3, 4), trajectory)}
        losses = model.loss(replace(batch, weights=weights), generator=seeded())
        losses.total.backward()
        found = gradients(model)
        assert all(not value for name, value in found.items() if name.startswith(still))
        assert any(value for name, value in found.items() if name.startswith(learns))


@pytest.mark.parametrize(("layer", "reached"), [(2, 2), (1, 1), (-2, 2), (-1, 3)])
def test_the_router_s_loss_reaches_the_layers_below_its_latent(
    make_damvla: Make, weighed: Weighed, layer: int, reached: int
) -> None:
    model = make_damvla(reasoning_layer=layer)
    term = model.loss(weighed(), generator=seeded()).terms["router"]
    (term.sum / term.count).backward()
    found = gradients(model)
    layers = "backbone.llm.layers."
    numbers = {
        int(name.removeprefix(layers).split(".")[0]) for name, value in found.items() if value and layers in name
    }
    assert numbers == set(range(reached))
    assert any(value for name, value in found.items() if name.startswith("head.router"))
    assert any(value for name, value in found.items() if name.startswith("backbone.vision.dinov2"))
    assert all(value is None for name, value in found.items() if name.startswith(("head.arm", "head.gripper")))


def test_without_dual_latents_the_router_reads_the_cognition_feature(make_damvla: Make, weighed: Weighed) -> None:
    model, batch = make_damvla(dl=False), weighed()
    expected = torch.sigmoid(model.head.router(model.encode(batch).states[-1]))  # type: ignore[misc]
    torch.testing.assert_close(model.sample(batch).extras["router"], expected)


DECAY = torch.tensor([[1.0, 0.8, 0.64, 0.512]] * 2 + [[1.0, 0.8, 0.64, 0.0]])
RATE = torch.tensor([[0.0] * 4, [1.0] * 4, [0.2, 0.4, 0.8, 0.0]])
THERE = torch.tensor([[1.0] * 4] * 2 + [[1.0] * 3 + [0.0]])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tw": False, "acw": False, "dam": False}, [None]),
        ({"tw": False, "dam": False}, [DECAY]),
        ({"dam": False}, [DECAY * (1 + RATE)]),
        ({"dam": False, "acw": False}, [THERE * (1 + RATE)]),
        ({"dam": False, "single_head": "floor"}, [DECAY * RATE.clamp_min(0.1)]),
        ({}, [DECAY * (1 - RATE), DECAY * RATE]),
        ({"acw": False}, [THERE * (1 - RATE), THERE * RATE]),
        ({"tw": False}, [DECAY, DECAY]),
        ({"tw": False, "acw": False}, [THERE, THERE]),
        ({"tw": False, "unweighted_heads": "own"}, [DECAY * (RATE <= 0.5), DECAY * (RATE > 0.5)]),
    ],
)
def test_switches_decide_which_steps_count(
    make_damvla: Make, weighed: Weighed, options: dict, expected: list[torch.Tensor | None]
) -> None:
    batch, config = weighed(), make_damvla(**options).config
    found = weights_by_head(config, targets(batch))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        torch.testing.assert_close(a, b)
    more = replace(batch, weights={**batch.weights, "near": torch.full((3, 4), 2.0)})
    for a, b in zip(weights_by_head(config, targets(more)), expected, strict=True):
        torch.testing.assert_close(a, torch.full((3, 4), 2.0) * (1 if b is None else b))


def test_nothing_behind_the_episode_counts(make_damvla: Make, weighed: Weighed) -> None:
    batch = weighed()
    assert batch.actions is not None
    other = replace(batch, actions=batch.actions.clone())
    other.actions[2, 3:] += 5  # type: ignore[index]
    noise = NOISE.clone()
    for options in ({}, {"acw": False}, {"tw": False, "acw": False}):
        model = make_damvla(mask_padded=False, **options)
        for head in model.head.heads:  # no attention, so that a step sees itself alone
            for block in head.blocks:
                torch.nn.init.zeros_(block.attn.proj.weight)  # type: ignore[union-attr]
        for name in ("move", "mani"):
            a, b = (model.loss(x, noise=noise, time=TIME, generator=seeded()).terms[name].sum for x in (batch, other))
            torch.testing.assert_close(a, b)


def test_a_mean_over_weights_is_an_option(make_damvla: Make, weighed: Weighed) -> None:
    batch = weighed()
    plain, divided = (
        make_damvla(normalise=n, mask_padded=False).loss(batch, generator=seeded()).terms["mani"]
        for n in ("entries", "weights")
    )
    assert torch.equal(plain.sum, divided.sum)
    total = (batch.weights["trajectory"] * batch.weights["chunk"]).sum()
    torch.testing.assert_close(divided.count, 2 * 3 * total)
    assert plain.count == 2 * 3 * 4 * 3
    batch.weights["trajectory"] *= 0.01  # hardly a switch in sight, and the mean is as large
    losses = make_damvla(normalise="weights", mask_padded=False, router_weight=0.0, move_weight=0.0)
    sparse = losses.loss(batch, generator=seeded())
    assert sparse.terms["mani"].count < 1
    torch.testing.assert_close(sparse.total, divided.sum / divided.count, rtol=1e-4, atol=0)
    assert divided.rows is not None
    torch.testing.assert_close(divided.rows.sum(1), torch.stack([divided.sum, divided.count]).detach())


def test_samples_without_actions_teach_nobody(make_damvla: Make, weighed: Weighed) -> None:
    model, batch = make_damvla(), weighed()
    assert batch.action_valid is not None
    nothing = replace(batch, action_valid=torch.zeros_like(batch.action_valid))
    for empty in (nothing, replace(batch, actions=None)):
        losses = model.loss(empty)
        assert list(losses.terms) == ["move", "mani", "router"]
        assert not losses.total.requires_grad
    partly = batch.action_valid.clone()
    partly[0] = False
    term = model.loss(replace(batch, action_valid=partly)).terms["router"]
    assert term.count == 2
    logit = model.head.look(model.encode(batch))[1]
    assert logit is not None
    torch.testing.assert_close(
        term.sum, F.binary_cross_entropy_with_logits(logit, batch.labels["router"], reduction="none")[1:].sum()
    )


def test_what_a_batch_lacks_is_said(make_damvla: Make, weighed: Weighed) -> None:
    batch = weighed()
    with pytest.raises(ValueError, match="set processor"):
        make_damvla().loss(replace(batch, labels={}))
    with pytest.raises(ValueError, match=r"set processor.weights to \['chunk', 'trajectory'\]"):
        make_damvla().loss(replace(batch, weights={"chunk": batch.weights["chunk"]}))
    make_damvla(acw=False, tw=False).loss(replace(batch, weights={}))


def test_heads_may_be_decoupled_where_text_is_learnt(make_damvla: Make, weighed: Weighed) -> None:
    found = []
    for on in (False, True):
        model = make_damvla(text_output="own", gradient_decoupling=on)
        losses = model.loss(weighed(), generator=seeded())
        losses.total.backward()
        found.append((losses.total.detach(), gradients(model)))
    assert torch.equal(found[0][0], found[1][0])
    assert any(value for name, value in found[0][1].items() if name.startswith("backbone.vision.dinov2"))
    assert all(value is None for name, value in found[1][1].items() if name.startswith("backbone."))
    assert any(value for name, value in found[1][1].items() if name.startswith("head.router"))


def test_rows_without_actions_cost_the_heads_nothing(make_damvla: Make, weighed: Weighed) -> None:
    model, batch, seen = make_damvla(), weighed(), []
    assert batch.action_valid is not None
    batch.action_valid[1] = False
    for head in model.head.heads:
        head.blocks[0].register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    model.loss(batch)
    assert seen == [4, 4]

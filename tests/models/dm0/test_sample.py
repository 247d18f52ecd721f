from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from visuomotor.contract import Batch, TextKind
from visuomotor.models.dm0 import DM0
from visuomotor.nn.guidance import Guidance, prefix_weights

Make = Callable[..., DM0]
MakeBatch = Callable[..., Batch]


def prompt(batch: Batch) -> Batch:
    """The prompt and sub-task tokens alone, as at inference."""
    cut = {name: getattr(batch, name)[:, :5] for name in ("text_ids", "text_valid", "text_kind", "text_loss")}
    return replace(batch, **cut, actions=None, action_valid=None)


def rows(batch: Batch, *chosen: int) -> Batch:
    index = list(chosen)
    tensors = ("text_ids", "text_valid", "text_kind", "text_loss", "state", "embodiment", "source")
    return replace(
        batch,
        images={name: image[index] for name, image in batch.images.items()},
        **{name: getattr(batch, name)[index] for name in tensors},
    )


@torch.no_grad()
@pytest.mark.parametrize("state_token", ["none", "prefix", "expert"])
def test_cached_equals_uncached(make_model: Make, make_batch: MakeBatch, state_token: str) -> None:
    model, batch = make_model(state_token=state_token), prompt(make_batch())
    noise = torch.randn(3, 2, 4, 3)
    cached = model.sample(batch, noise=noise, steps=5).actions
    x = noise
    for i in range(5):
        time = torch.full((3, 2), 1 - i / 5)
        x = x - model.denoise(model.encode(batch), x, time) / 5
    torch.testing.assert_close(cached, x, atol=1e-5, rtol=1e-4)
    one_by_one = [model.sample(batch, noise=noise[:, n : n + 1], steps=5).actions for n in range(2)]
    torch.testing.assert_close(cached, torch.cat(one_by_one, dim=1), atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("generate", [0, 4])
def test_a_row_does_not_depend_on_its_batch(make_model: Make, make_batch: MakeBatch, generate: int) -> None:
    model, batch = make_model(), prompt(make_batch())
    batch.text_valid[1, 3:] = False
    noise = torch.randn(3, 1, 4, 3)
    together = model.sample(batch, noise=noise, generate=generate, stop_id=-1)
    for row in range(3):
        alone = model.sample(rows(batch, row), noise=noise[row : row + 1], generate=generate, stop_id=-1)
        torch.testing.assert_close(together.actions[row], alone.actions[0], atol=1e-5, rtol=1e-5)
        if together.text_ids is not None and alone.text_ids is not None:
            assert torch.equal(together.text_ids[row], alone.text_ids[0])


def append(batch: Batch, ids: torch.Tensor) -> Batch:
    """`ids` behind each row's text, as if they had been given."""
    kind = torch.full_like(ids, int(TextKind.SUBTASK))
    return replace(
        batch,
        text_ids=torch.cat([batch.text_ids, ids], 1),
        text_valid=torch.cat([batch.text_valid, torch.ones_like(ids, dtype=torch.bool)], 1),
        text_kind=torch.cat([batch.text_kind, kind], 1),
        text_loss=torch.cat([batch.text_loss, torch.zeros_like(ids, dtype=torch.bool)], 1),
    )


@torch.no_grad()
def test_generation_is_greedy_and_what_it_writes_is_seen(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), prompt(make_batch())
    batch.text_valid[1, 3:] = False
    noise = torch.randn(3, 1, 4, 3)
    found = model.sample(batch, noise=noise, generate=3, stop_id=-1)
    assert found.text_ids is not None
    given = batch
    for step in range(3):
        last = model.encode(given, text=True).last
        best = (last @ model.backbone.llm.embed_tokens.weight.T).argmax(-1)
        assert torch.equal(best, found.text_ids[:, step])
        given = append(given, best[:, None])
    torch.testing.assert_close(found.actions, model.sample(given, noise=noise).actions, atol=1e-5, rtol=1e-4)
    silent = model.sample(batch, noise=noise).actions
    assert (silent - found.actions).abs().max() > 1e-4


@torch.no_grad()
def test_action_tokens_that_it_writes_stay_hidden_from_the_chunk(make_model: Make, make_batch: MakeBatch) -> None:
    batch, noise = prompt(make_batch()), torch.randn(3, 1, 4, 3)
    seeing, hiding = make_model(), make_model(action_start_id=0)  # every token of this vocabulary is an action token
    written = hiding.sample(batch, noise=noise, generate=3, stop_id=-1)
    silent = hiding.sample(batch, noise=noise)
    torch.testing.assert_close(written.actions, silent.actions, atol=1e-5, rtol=1e-4)
    assert (seeing.sample(batch, noise=noise, generate=3, stop_id=-1).actions - silent.actions).abs().max() > 1e-4


@torch.no_grad()
def test_each_row_stops_at_its_own_stop(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(pad_id=0), prompt(make_batch())
    noise = torch.randn(3, 1, 4, 3)
    free = model.sample(batch, noise=noise, generate=6, stop_id=-1).text_ids
    assert free is not None
    stop = int(free[0, 1])
    found = model.sample(batch, noise=noise, generate=6, stop_id=stop)
    assert found.text_ids is not None
    for row in range(3):
        hits = (free[row] == stop).nonzero()[:, 0]
        end = int(hits[0]) + 1 if len(hits) else 6
        assert torch.equal(found.text_ids[row, :end], free[row, :end])
        assert (found.text_ids[row, end:] == 0).all()
    kept = int((free[0] == stop).nonzero()[0]) + 1
    given = append(rows(batch, 0), free[:1, :kept])
    expected = model.sample(given, noise=noise[:1]).actions
    torch.testing.assert_close(found.actions[:1], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_prefix_runs_once_and_can_be_shared(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), prompt(make_batch())
    calls = []
    hook = model.backbone.vision.tower.register_forward_hook(lambda *_: calls.append(1))
    noise = torch.randn(3, 1, 4, 3)
    prefix = model.encode(batch)
    first = model.sample(batch, prefix=prefix, noise=noise).actions
    second = model.sample(batch, prefix=prefix, noise=noise).actions
    hook.remove()
    assert len(calls) == 1  # all views of all rows in one call
    assert torch.equal(first, second)
    torch.testing.assert_close(first, model.sample(batch, noise=noise).actions)


@torch.no_grad()
@pytest.mark.parametrize("changed", ["image", "text", "state"])
def test_the_observation_changes_the_action(make_model: Make, make_batch: MakeBatch, changed: str) -> None:
    model, batch = make_model(state_token="prefix"), prompt(make_batch())
    other = {
        "image": replace(batch, images={k: 255 - v for k, v in batch.images.items()}),
        "text": replace(batch, text_ids=(batch.text_ids + 1) % 40),
        "state": replace(batch, state=batch.state + 1),
    }[changed]
    noise = torch.randn(3, 1, 4, 3)
    difference = model.sample(batch, noise=noise).actions - model.sample(other, noise=noise).actions
    assert difference.abs().max() > 1e-3


@torch.no_grad()
def test_the_published_model_ignores_the_state(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), prompt(make_batch())
    noise = torch.randn(3, 1, 4, 3)
    other = replace(batch, state=batch.state + 1)
    assert torch.equal(model.sample(batch, noise=noise).actions, model.sample(other, noise=noise).actions)


def test_text_states_are_needed_to_write(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), prompt(make_batch())
    with torch.no_grad(), pytest.raises(ValueError, match="text=True"):
        model.sample(batch, prefix=model.encode(batch), generate=2)


def test_noise_comes_from_the_generator(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), prompt(make_batch())
    first, second = (
        model.sample(batch, num_samples=2, generator=torch.Generator().manual_seed(5)).actions for _ in range(2)
    )
    assert first.shape == (3, 2, 4, 3)
    assert torch.equal(first, second)


def test_velocity_is_differentiable_in_the_noisy_chunk(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), prompt(make_batch())
    prefix, t = model.encode(batch), torch.full((3, 2), 0.5)
    x = torch.randn(3, 2, 4, 3, requires_grad=True)
    value = model.denoise(prefix, x, t)
    with torch.no_grad():
        torch.testing.assert_close(value, model.denoise(prefix, x, t), atol=1e-6, rtol=1e-5)
    (grad,) = torch.autograd.grad(value[:, 0].sum(), x)
    assert grad[:, 0].abs().sum() > 0
    assert grad[:, 1].abs().sum() == 0  # samples do not see each other


@pytest.mark.parametrize("state_token", ["none", "prefix", "expert"])
def test_text_alone_is_learnt_and_answered(make_model: Make, make_batch: MakeBatch, state_token: str) -> None:
    model, batch = make_model(state_token=state_token), make_batch()
    talk = replace(
        batch,
        images={},
        image_valid=torch.zeros(batch.size, 2, dtype=torch.bool),
        action_valid=torch.zeros_like(batch.action_valid),
    )
    losses = model.loss(talk)
    assert torch.isfinite(losses.total)
    assert losses.terms["flow"].count == 0
    said = [model.sample(one, generate=4, steps=1).text_ids for one in (talk, replace(talk, actions=None))]
    assert said[0].shape == (3, 4)
    assert torch.equal(said[0], said[1])


@pytest.mark.parametrize("state_token", ["none", "expert"])
def test_guidance_differentiates_the_network(make_model: Make, make_batch: MakeBatch, state_token: str) -> None:
    """The correction of one Euler step is that of a Jacobian taken column by column."""
    model, batch, noise = make_model(state_token=state_token), rows(prompt(make_batch()), 0), torch.randn(1, 1, 4, 3)
    target, weights = torch.randn(1, 4, 3), prefix_weights(1, 3, 4)[None, :, None].expand(1, 4, 3)
    prefix, one = model.encode(batch), torch.ones(1, 1)

    def predicted(x: torch.Tensor) -> torch.Tensor:
        return x - model.denoise(prefix, x, one)

    jacobian = torch.autograd.functional.jacobian(predicted, noise).reshape(12, 12)
    error = (weights * (target - predicted(noise)[:, 0])).flatten()
    guided = Guidance(target=target, weights=weights)
    found = model.sample(batch, noise=noise, steps=1, chunk_guidance=guided).actions
    expected = predicted(noise) + 5 * (jacobian.T @ error).reshape(1, 1, 4, 3)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    cheap = model.sample(batch, noise=noise, steps=1, chunk_guidance=replace(guided, kind="identity")).actions
    torch.testing.assert_close(cheap, predicted(noise) + 5 * error.reshape(1, 1, 4, 3), atol=1e-4, rtol=1e-4)
    assert (cheap - found).abs().max() > 1e-3


@torch.no_grad()
def test_a_given_prefix_is_kept_and_read(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch, noise = make_model(), prompt(make_batch()), torch.randn(3, 2, 4, 3)
    free = model.sample(batch, noise=noise).actions
    target, weights = torch.randn(3, 4, 3), torch.zeros(3, 4, 3)
    nothing = model.sample(batch, noise=noise, chunk_guidance=Guidance(target=target, weights=weights, kind="prefix"))
    torch.testing.assert_close(nothing.actions, free, atol=1e-5, rtol=1e-4)
    weights[:, :2] = 1
    found = model.sample(
        batch, noise=noise, chunk_guidance=Guidance(target=target, weights=weights, kind="prefix")
    ).actions
    assert torch.equal(found[:, :, :2], target[:, None, :2].expand(-1, 2, -1, -1))
    assert (found[:, :, 2:] - free[:, :, 2:]).abs().max() > 1e-3

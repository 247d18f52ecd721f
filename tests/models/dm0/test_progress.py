from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from visuomotor.contract import Batch
from visuomotor.heads.base import Targets
from visuomotor.models.dm0 import DM0
from visuomotor.nn.flow import time_code
from visuomotor.training.step import accumulate_gradients

Make = Callable[..., DM0]
MakeBatch = Callable[..., Batch]


def labelled(batch: Batch, *columns: Tensor) -> Batch:
    return replace(batch, labels={"progress": torch.stack(columns, dim=1)})


def test_the_token_is_embedded_like_an_action_of_its_own_linear(make_model: Make) -> None:
    network = make_model(progress_token=True).head
    x, t, told = torch.randn(2, 1, 4, 3), torch.rand(2, 1), torch.rand(2, 1)
    tokens = network._embed(x, t, torch.zeros(2, 5), told)
    assert tokens.shape == (2, 5, 16)
    both = torch.cat([network.progress_in_proj(told), time_code(t[:, 0], 16)], dim=-1)
    expected = network.action_time_mlp_out(F.silu(network.action_time_mlp_in(both)))
    torch.testing.assert_close(tokens[:, 0], expected)
    torch.testing.assert_close(tokens[:, 1:], network._embed(x, t, torch.zeros(2, 5)))


def test_sampling_returns_the_least_of_all_steps(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(progress_token=True), make_batch()
    batch = labelled(batch, torch.tensor([0.0, 0.5, 0.9]))
    noise = torch.randn(3, 2, 4, 3)
    sampled = model.sample(batch, noise=noise, steps=4)
    assert sampled.extras["progress"].shape == (3, 2)
    prefix, x, ends = model.encode(batch), noise, []
    for i in range(4):
        t = torch.full((3, 2), 1 - i / 4)
        tokens = model.head._embed(x, t, prefix.state, batch.labels["progress"][:, :1].expand(3, 2))
        attention = model.head._attention(prefix, 2, tokens.shape[1])
        states = model.head.expert(tokens, attention, past=prefix.cache.filled())[0].unflatten(1, (2, -1))
        ends.append(model.head.progress_out_proj(states[:, :, 0])[..., 0])
        x = x - model.head.action_out_proj(states[:, :, 1:]) / 4
    torch.testing.assert_close(sampled.actions, x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sampled.extras["progress"], torch.stack(ends).amin(0), atol=1e-5, rtol=1e-5)


def test_without_labels_it_is_dm0(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(progress_token=True), make_batch()
    plain = make_model()
    plain.load_state_dict({name: t for name, t in model.state_dict().items() if "progress" not in name})
    noise, time = torch.randn(3, 2, 4, 3), torch.rand(3, 2)
    ours, theirs = (m.loss(batch, noise=noise, time=time).terms for m in (model, plain))
    assert ours.keys() == theirs.keys() == {"text", "action_tokens", "flow"}
    torch.testing.assert_close(ours["flow"].sum, theirs["flow"].sum, atol=0, rtol=0)
    assert not model.sample(batch, noise=noise, steps=2).extras


def test_the_loss_is_the_squared_error_of_rows_with_actions(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(progress_token=True, progress_noise=0.0), make_batch()
    assert batch.action_valid is not None
    batch.action_valid[1] = False
    batch = labelled(batch, torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.6, 1.0]))
    noise, time = torch.randn(3, 2, 4, 3), torch.rand(3, 2)
    term = model.loss(batch, noise=noise, time=time).terms["progress"]
    assert term.count == 4
    prefix = model.encode(batch)
    assert batch.actions is not None
    x = time[..., None, None] * noise + (1 - time[..., None, None]) * batch.actions[:, None]
    states = model.head._states(prefix, x, time, model.head._sample_attention(prefix, 2))
    miss = (model.head._read_progress(states) - batch.labels["progress"][:, 1:]).square()
    torch.testing.assert_close(term.sum, miss[[0, 2]].sum(), atol=1e-5, rtol=1e-4)
    term.sum.backward()
    assert model.head.progress_out_proj.weight.grad is not None
    assert model.head.action_out_proj.weight.grad is None


def test_what_it_is_told_is_noisy_in_training_and_repeatable(make_model: Make, make_batch: MakeBatch) -> None:
    model = make_model(progress_token=True)
    batch = labelled(make_batch(), torch.full((3,), 0.5), torch.full((3,), 0.6))
    targets = Targets.of(batch)
    assert targets is not None

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return model.head.draw(targets, None, torch.zeros(3, 100), generator).extra["progress"]

    told = draw()
    assert 0.03 < (told - 0.5).std() < 0.07
    torch.testing.assert_close(told, draw(), atol=0, rtol=0)


def test_its_term_has_its_place_in_batches_without_actions(make_model: Make, make_batch: MakeBatch) -> None:
    """Else a stage whose loss_weights name it would stop at the first batch, or micro-batch, of questions alone."""
    model = make_model(progress_token=True)
    batch = labelled(make_batch(), torch.zeros(3), torch.ones(3))
    assert batch.action_valid is not None
    silent = replace(batch, action_valid=torch.zeros_like(batch.action_valid))
    weights, autocast = {"progress": 0.5}, nullcontext()
    found = accumulate_gradients(
        model, silent, accumulate=1, weights=weights, generator=torch.Generator(), key=(0, "", 0), autocast=autocast
    )
    total, count, weight = found["progress"]
    assert (float(total), float(count), weight) == (0, 0, 0.5)
    assert found.keys() == model.loss(batch).terms.keys()

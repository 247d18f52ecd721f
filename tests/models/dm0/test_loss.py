from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from visuomotor.contract import Batch, Losses, TextKind
from visuomotor.heads.base import Targets
from visuomotor.models.dm0 import DM0
from visuomotor.training.step import split

Make = Callable[..., DM0]
MakeBatch = Callable[..., Batch]
VLM = ("vision", "projector", "llm", "embed")


def gradients(model: DM0, value: torch.Tensor) -> dict[str, list[torch.Tensor | None]]:
    model.zero_grad()
    value.backward()
    return {part: [p.grad for p in parameters] for part, parameters in model.parts().items()}


def fixed(model: DM0, batch: Batch, draws: int = 2) -> Losses:
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(batch.size, draws, 4, 3, generator=generator)
    return model.loss(batch, noise=noise, time=torch.rand(batch.size, draws, generator=generator))


def test_counts(make_model: Make, make_batch: MakeBatch) -> None:
    terms = make_model().loss(make_batch()).terms
    assert {name: int(term.count) for name, term in terms.items()} == {
        "text": 3 * 2,
        "action_tokens": 4 + 2 + 4,
        "flow": 3 * 2 * 4 * 3,
    }


def test_decoupled_flow_loss_leaves_no_gradient_on_the_vlm(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    found = gradients(model, fixed(model, batch).terms["flow"].sum)
    assert all(grad is None for part in VLM for grad in found[part])
    assert all(grad is not None and grad.abs().sum() > 0 for grad in found["expert"] + found["action_io"])


def test_text_loss_reaches_the_vlm_only(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    for name in ("text", "action_tokens"):
        found = gradients(model, fixed(model, batch).terms[name].sum)
        assert all(grad is not None and grad.abs().sum() > 0 for part in VLM for grad in found[part])
        assert all(grad is None for grad in found["expert"] + found["action_io"])


def test_decoupling_changes_gradients_but_no_value(make_model: Make, make_batch: MakeBatch) -> None:
    batch = make_batch()
    switched = [make_model(gradient_decoupling=on) for on in (True, False)]
    values = [fixed(model, batch).terms["flow"].sum for model in switched]
    assert torch.equal(values[0], values[1])
    assert all(grad is not None for grad in gradients(switched[1], values[1])["vision"])


def test_decoupling_by_source(make_model: Make, make_batch: MakeBatch) -> None:
    batch = make_batch(size=2)
    model = make_model(decoupled_sources=(1,))
    both = gradients(model, fixed(model, batch).terms["flow"].sum)
    alone = replace(batch, action_valid=torch.zeros_like(batch.action_valid))
    assert alone.action_valid is not None
    alone.action_valid[0] = True
    coupled = make_model(gradient_decoupling=False)
    one = gradients(coupled, fixed(coupled, alone).terms["flow"].sum)
    for part in VLM:
        for a, b in zip(both[part], one[part], strict=True):
            assert (a is None) == (b is None)
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("state_token", ["none", "prefix", "expert"])
def test_draws_share_a_prefix_and_equal_separate_forwards(
    make_model: Make, make_batch: MakeBatch, state_token: str
) -> None:
    model, batch = make_model(gradient_decoupling=False, state_token=state_token), make_batch()
    generator = torch.Generator().manual_seed(3)
    noise, time = torch.randn(3, 4, 4, 3, generator=generator), torch.rand(3, 4, generator=generator)
    shared = model.loss(batch, noise=noise, time=time).terms["flow"]
    together = gradients(model, shared.sum)
    singles = [model.loss(batch, noise=noise[:, k : k + 1], time=time[:, k : k + 1]).terms["flow"] for k in range(4)]
    separate = gradients(model, torch.stack([single.sum for single in singles]).sum())
    assert shared.count == sum(single.count for single in singles)
    for part in together:
        for a, b in zip(together[part], separate[part], strict=True):
            if a is not None and b is not None:
                torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)
            else:
                assert a is b is None


def test_samples_without_actions_add_no_flow_loss(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    partial = replace(batch, action_valid=batch.action_valid.clone())
    partial.action_valid[1] = False
    noise, time = torch.randn(3, 2, 4, 3), torch.rand(3, 2)
    term = model.loss(partial, noise=noise, time=time).terms["flow"]
    others = [
        model.loss(replace(batch, action_valid=mask), noise=noise, time=time).terms["flow"]
        for mask in (torch.tensor([True, False, False]), torch.tensor([False, False, True]))
        for mask in [mask[:, None, None].expand(3, 4, 3)]
    ]
    torch.testing.assert_close(term.sum, others[0].sum + others[1].sum)
    assert term.count == 2 * 2 * 4 * 3
    nothing = replace(batch, action_valid=torch.zeros_like(batch.action_valid))
    empty = model.loss(nothing).terms["flow"]
    assert empty.count == 0
    assert empty.sum == 0
    assert model.loss(replace(batch, actions=None, action_valid=None)).terms["flow"].count == 0


def test_a_batch_without_text_targets_trains_the_flow_alone(make_model: Make, make_batch: MakeBatch) -> None:
    model = make_model(gradient_decoupling=False)
    batch = make_batch()
    silent = replace(batch, text_loss=torch.zeros_like(batch.text_loss))
    losses = fixed(model, silent)
    assert losses.terms["text"].count == losses.terms["action_tokens"].count == 0
    torch.testing.assert_close(losses.terms["flow"].sum, fixed(model, batch).terms["flow"].sum)
    losses.total.backward()


def test_who_learns_nothing_from_a_batch_has_no_gradient(make_model: Make, make_batch: MakeBatch) -> None:
    """None, not zeros: on zeros, momentum and weight decay would go on."""
    batch = make_batch()
    without_actions = replace(batch, action_valid=torch.zeros_like(batch.action_valid))
    without_text = replace(batch, text_loss=torch.zeros_like(batch.text_loss))
    for given, silent in ((without_actions, ("expert", "action_io")), (without_text, VLM)):
        model = make_model()
        model.loss(given).total.backward()
        found = {name: [p.grad is not None for p in parameters] for name, parameters in model.parts().items()}
        assert not any(flag for name in silent for flag in found[name])
        assert all(any(flags) for name, flags in found.items() if name not in silent)


def test_published_loss_averages_over_padding_too(make_model: Make, make_batch: MakeBatch) -> None:
    batch = make_batch()
    batch.action_valid[:, 2:] = False
    masked, plain = (fixed(make_model(mask_padded=on), batch).terms["flow"] for on in (True, False))
    assert masked.count == 3 * 2 * 2 * 3
    assert plain.count == 3 * 2 * 4 * 3
    assert plain.sum > masked.sum
    changed = replace(batch, actions=batch.actions.clone())
    changed.actions[:, 2:] += 1  # what padding holds still enters the network as noisy actions
    assert fixed(make_model(mask_padded=True), changed).terms["flow"].count == masked.count


def test_step_weights_multiply_the_error(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    weighted = replace(batch, weights={"near": torch.full((3, 4), 2.0), "gripper": torch.full((3, 4), 1.5)})
    torch.testing.assert_close(fixed(model, weighted).terms["flow"].sum, 3 * fixed(model, batch).terms["flow"].sum)


def test_action_tokens_never_reach_the_flow(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    other = replace(batch, text_ids=batch.text_ids.clone())
    other.text_ids[:, 5:] = (other.text_ids[:, 5:] + 1) % 40
    assert torch.equal(fixed(model, batch).terms["flow"].sum, fixed(model, other).terms["flow"].sum)
    subtask = replace(batch, text_ids=batch.text_ids.clone())
    subtask.text_ids[:, 4] = (subtask.text_ids[:, 4] + 1) % 40
    assert not torch.equal(fixed(model, batch).terms["flow"].sum, fixed(model, subtask).terms["flow"].sum)


def test_where_padding_stands_does_not_matter(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    order = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8])
    moved = torch.stack([order, order.roll(2), order])  # row 1 is padded by two on the right; now on the left
    parts = {
        name: getattr(batch, name).gather(1, moved) for name in ("text_ids", "text_valid", "text_kind", "text_loss")
    }
    for a, b in zip(
        fixed(model, batch).terms.values(), fixed(model, replace(batch, **parts)).terms.values(), strict=True
    ):
        torch.testing.assert_close(a.sum, b.sum)
        assert a.count == b.count


def test_a_generator_makes_the_loss_repeatable(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), make_batch()
    first, second = (model.loss(batch, generator=torch.Generator().manual_seed(1)).total for _ in range(2))
    assert torch.equal(first, second)
    assert first != model.loss(batch, generator=torch.Generator().manual_seed(2)).total


def test_questions_on_one_image_are_answered_as_if_each_was_asked_alone(
    make_model: Make, make_batch: MakeBatch
) -> None:
    model, batch = make_model(), make_batch(size=2, length=11)
    turn = torch.tensor([[1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 0], [1, 1, 2, 2, 2, 2, 2, 3, 3, 0, 0]])
    kind = torch.full_like(turn, int(TextKind.ANSWER))
    loss = torch.zeros_like(turn, dtype=torch.bool)
    loss[0, [2, 3, 5, 8, 9]] = loss[1, [1, 5, 6, 8]] = True
    together = replace(batch, text_kind=kind, text_valid=turn > 0, text_loss=loss, text_turn=turn, actions=None)
    found = model.loss(together).terms["text"]
    assert found.count == 9
    alone = torch.zeros(())
    for row in range(2):
        for k in range(1, 4):
            asked = turn[row] == k
            parts = {
                name: getattr(together, name)[row : row + 1, asked] for name in ("text_ids", "text_kind", "text_loss")
            }
            question = replace(
                together,
                **parts,
                images={role: image[row : row + 1] for role, image in batch.images.items()},
                state=batch.state[row : row + 1],
                text_valid=torch.ones_like(parts["text_loss"]),
                text_turn=None,
            )
            alone = alone + model.loss(question).terms["text"].sum
    torch.testing.assert_close(found.sum, alone)


FROZEN = ("expert", "action_io")


def trained(model: DM0, parts: tuple[str, ...]) -> DM0:
    for name, parameters in model.parts().items():
        for parameter in parameters:
            parameter.requires_grad_(name in parts)
    return model


def test_a_prefix_that_stands_still_is_run_without_gradients(make_model: Make, make_batch: MakeBatch) -> None:
    batch = make_batch()
    learning, still = make_model(), trained(make_model(), FROZEN)
    expected, found = fixed(learning, batch), fixed(still, batch)
    assert torch.equal(found.terms["flow"].sum, expected.terms["flow"].sum)
    left, right = (
        gradients(model, losses.terms["flow"].sum) for model, losses in ((learning, expected), (still, found))
    )
    for part in FROZEN:
        for a, b in zip(left[part], right[part], strict=True):
            assert a is not None
            assert b is not None
            assert torch.equal(a, b)
    assert [int(found.terms[name].count) for name in ("text", "action_tokens")] == [0, 0]
    flow = found.terms["flow"]
    assert float(found.total.detach()) == pytest.approx(float(flow.sum.detach() / flow.count))
    evaluated = fixed(still.eval(), batch)  # validation goes on to report the text
    assert all(torch.equal(evaluated.terms[name].sum, term.sum) for name, term in expected.terms.items())


def test_nothing_of_a_still_prefix_is_kept_for_the_backward_pass(make_model: Make, make_batch: MakeBatch) -> None:
    model = trained(make_model(**{"llm.convolution": 0}), FROZEN)
    seen: list[bool] = []

    def note(module: torch.nn.Module, args: object, output: object) -> None:
        seen.append(torch.is_grad_enabled())

    for module in (model.backbone.vision.tower, model.backbone.vision.projector, model.backbone.llm):
        module.register_forward_hook(note)
    fixed(model, make_batch())
    assert seen == [False] * 3


@pytest.mark.parametrize("part", ["vision", "projector", "llm", "embed", "lm_head"])
def test_one_part_of_the_prefix_is_enough_to_go_on_learning_from_text(
    make_model: Make, make_batch: MakeBatch, part: str
) -> None:
    model = trained(make_model(tie_embeddings=False), (*FROZEN, part))
    losses = fixed(model, make_batch())
    assert int(losses.terms["text"].count) > 0
    assert any(grad is not None and bool(grad.any()) for grad in gradients(model, losses.total)[part])


def test_a_state_token_in_the_prefix_learns_from_a_coupled_flow(make_model: Make, make_batch: MakeBatch) -> None:
    model = trained(make_model(state_token="prefix", gradient_decoupling=False), FROZEN)
    fixed(model, make_batch()).total.backward()
    grad = model.head.state_proj.weight.grad
    assert grad is not None
    assert bool(grad.any())


@pytest.mark.parametrize("options", [{}, {"llm.convolution": 0, "gradient_decoupling": False, "state_token": "expert"}])
def test_computing_layers_again_changes_nothing(make_model: Make, make_batch: MakeBatch, options: dict) -> None:
    plain, again = make_model(**options), make_model(**options)
    again.checkpoint_activations(True)
    calls: list[int] = []
    again.backbone.llm.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    expected, found = fixed(plain, make_batch()), fixed(again, make_batch())
    assert torch.equal(found.total, expected.total)
    assert len(calls) == 1
    left, right = gradients(plain, expected.total), gradients(again, found.total)
    assert len(calls) == 2
    for part, grads in left.items():
        for a, b in zip(grads, right[part], strict=True):
            assert (a is None) == (b is None)
            assert a is None or b is None or torch.equal(a, b)
    again.eval().sample(make_batch(), steps=1)
    assert len(calls) == 3  # no recomputation where nothing is learnt


def test_computing_layers_again_keeps_less(make_model: Make, make_batch: MakeBatch) -> None:
    def kept(model: DM0) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            losses = fixed(model, make_batch())
        assert losses.total.requires_grad
        return sum(storages.values())

    plain, again = make_model(), make_model()
    again.checkpoint_activations(True)
    assert kept(again) < 0.6 * kept(plain)


def test_terms_by_sample_are_those_of_the_sample_alone(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(noise_draws=1), make_batch()
    without = batch.action_valid.clone()
    without[1] = False
    batch = replace(batch, action_valid=without)
    noise, time = torch.randn(3, 1, 4, 3), torch.rand(3, 1)
    whole = model.loss(batch, noise=noise, time=time).terms
    for i, one in enumerate(split(batch, 3)):
        alone = model.loss(one, noise=noise[i : i + 1], time=time[i : i + 1]).terms
        for name, term in whole.items():
            expected = torch.stack([alone[name].sum, alone[name].count]).float()
            assert term.rows is not None
            torch.testing.assert_close(term.rows[:, i], expected, atol=1e-5, rtol=1e-5)
            assert not term.rows.requires_grad


def test_given_actions_are_told_clean_and_not_counted(
    make_model: Make, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training-time real-time chunking: without a given action it is the plain loss, with one only the rest counts."""
    batch, plain, model = make_batch(), make_model(), make_model(prefix_delay=3)
    before = fixed(plain, batch).terms["flow"]
    for delay in (0, 2):
        monkeypatch.setattr("visuomotor.heads.flow_expert.integers", lambda n, shape, *_, d=delay: torch.full(shape, d))
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        embed = model.head._embed
        monkeypatch.setattr(
            model.head, "_embed", lambda x, t, *a, e=embed, s=seen, **k: s.append((x, t)) or e(x, t, *a, **k)
        )
        term = fixed(model, batch).terms["flow"]
        monkeypatch.undo()
        ((x, t),) = seen
        assert torch.equal(x[:, :, :delay], batch.actions[:, None, :delay].expand(-1, 2, -1, -1))
        assert (t[..., :delay] == 0).all()
        assert (t[..., delay:] > 0).all()
        assert int(term.count) == 3 * 2 * (4 - delay) * 3
        assert term.rows is not None
        torch.testing.assert_close(term.rows.sum(1), torch.stack([term.sum.detach(), term.count.float()]))
        if delay == 0:
            torch.testing.assert_close(term.sum, before.sum)
    assert torch.equal(fixed(make_model(), batch).terms["flow"].sum, before.sum)


def test_how_many_actions_are_given_is_drawn_anew(make_model: Make) -> None:
    targets = Targets(
        actions=torch.zeros(200, 4, 3), valid=torch.ones(200, 4, 3, dtype=torch.bool), weights={}, labels={}
    )
    head = make_model(prefix_delay=2).head
    given = head.draw(targets, None, torch.zeros(200, 3), torch.Generator().manual_seed(0)).extra["fixed"]
    counts = given.sum(-1)
    assert set(counts.flatten().tolist()) == {0, 1, 2}
    assert (given == (torch.arange(4) < counts[..., None])).all()
    for bad in ({"prefix_delay": 4}, {"prefix_delay": 1, "progress_token": True}):
        with pytest.raises(ValueError, match="prefix_delay"):
            make_model(**bad)

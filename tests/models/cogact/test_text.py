"""A CogACT with an output layer over the vocabulary: texts, and what of the action loss reaches the backbone."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from visuomotor.backbones.base import ContextRequest
from visuomotor.contract import Batch, TextKind
from visuomotor.models import make_config
from visuomotor.models.cogact import CogACT

Make = Callable[..., CogACT]
MakeBatch = Callable[..., Batch]
DRAWS = {"noise": torch.randn(3, 2, 4, 3, generator=torch.Generator().manual_seed(1)), "time": torch.full((3, 2), 40)}


@pytest.fixture
def talk(make_batch: MakeBatch) -> Batch:
    """Row 0 acts, row 1 answers in three tokens, row 2 does both: an answer stands behind its prompt."""
    batch = make_batch()
    kinds, targets = batch.text_kind.clone(), batch.text_loss.clone()
    for row, ends in ((1, 7), (2, 9)):
        kinds[row, ends - 3 : ends] = int(TextKind.ANSWER)
        targets[row, ends - 3 : ends] = True
    assert batch.action_valid is not None
    valid = batch.action_valid.clone()
    valid[1] = False
    return replace(batch, text_kind=kinds, text_loss=targets, action_valid=valid, source=torch.tensor([0, 1, 1]))


def losses(model: CogACT, batch: Batch):
    return model.loss(batch, **DRAWS, generator=torch.Generator().manual_seed(0)).terms


@pytest.mark.parametrize("output", ["tied", "own"])
def test_answers_are_learnt_with_the_output_layer(make_model: Make, talk: Batch, output: str) -> None:
    model = make_model(text_output=output, text_weight=0.25)
    terms = losses(model, talk)
    assert list(terms) == ["text", "diffusion"]
    assert (terms["text"].count, terms["text"].weight) == (6, 0.25)
    states = model.backbone.observe(talk, ContextRequest(layers=(-1,))).states[-1]
    table = model.backbone.llm.embed_tokens.weight if output == "tied" else model.backbone.lm_head.weight
    total = torch.zeros(())
    for row, ends in ((1, 7), (2, 9)):
        logits = states[row, 16 + ends - 4 : 16 + ends - 1] @ table.T  # 16 patches stand behind the first token
        total = total + F.cross_entropy(logits, talk.text_ids[row, ends - 3 : ends], reduction="sum")
    torch.testing.assert_close(terms["text"].sum, total)
    assert ("lm_head" in model.parts()) == (output == "own")
    assert {id(p) for part in model.parts().values() for p in part} == {id(p) for p in model.parameters()}


def test_the_cognition_feature_ends_the_prompt(make_model: Make, talk: Batch) -> None:
    """What an answer says does not change what the head is told."""
    model = make_model(text_output="tied")
    term = losses(model, talk)["diffusion"].rows
    other = replace(talk, text_ids=talk.text_ids.where(~talk.text_loss, 7))
    torch.testing.assert_close(losses(model, other)["diffusion"].rows, term, atol=1e-4, rtol=1e-4)
    silent = replace(talk, text_valid=talk.text_valid & ~talk.text_loss, text_loss=torch.zeros_like(talk.text_loss))
    torch.testing.assert_close(losses(model, silent)["diffusion"].rows, term, atol=1e-4, rtol=1e-4)


def test_questions_of_later_turns_are_no_prompt(make_model: Make, talk: Batch) -> None:
    model, turns = make_model(text_output="tied"), torch.zeros_like(talk.text_ids)
    turns[2, 4:] = 1
    asked = replace(talk, text_turn=turns)
    plain = replace(talk, text_valid=talk.text_valid & (turns == 0), text_loss=talk.text_loss & (turns == 0))
    a, b = (losses(model, batch)["diffusion"].rows for batch in (asked, plain))
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def gradients(model: CogACT, *terms: object) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    sum(term.sum / term.count for term in terms).backward()  # type: ignore[attr-defined]
    return {name: p.grad for name, p in model.named_parameters()}


def test_gradients_stop_where_they_are_decoupled(make_model: Make, talk: Batch) -> None:
    joint, decoupled = (make_model(text_output="tied", gradient_decoupling=on) for on in (False, True))
    a, b = losses(joint, talk), losses(decoupled, talk)
    for name in a:
        assert torch.equal(a[name].sum, b[name].sum)
    reached, stopped = gradients(joint, a["diffusion"]), gradients(decoupled, b["diffusion"])
    assert any(grad is not None for name, grad in reached.items() if name.startswith("backbone."))
    assert all(grad is None for name, grad in stopped.items() if name.startswith("backbone."))
    for name in (name for name in stopped if name.startswith("head.")):
        assert (stopped[name] is None and reached[name] is None) or torch.equal(stopped[name], reached[name])  # type: ignore[arg-type]
    text = gradients(decoupled, losses(decoupled, talk)["text"])
    assert text["backbone.vision.projector.0.weight"] is not None


def test_some_sources_may_be_decoupled(make_model: Make, talk: Batch) -> None:
    options = {"text_output": "tied", "gradient_decoupling": True}
    first, both = (make_model(**options, decoupled_sources=chosen) for chosen in ((1,), (0, 1)))
    table = "backbone.llm.embed_tokens.weight"
    ids = {row: set(talk.text_ids[row].tolist()) for row in (0, 2)}
    found = gradients(first, losses(first, talk)["diffusion"])[table]
    assert found is not None
    moved = set(found.abs().sum(1).nonzero()[:, 0].tolist())
    assert moved & ids[0]
    assert not moved & (ids[2] - ids[0])
    none = gradients(both, losses(both, talk)["diffusion"])[table]
    assert none is None or not none.any()


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="set text_output to 'tied' or 'own'"):
        make_config("cogact", gradient_decoupling=True)
    with pytest.raises(ValueError, match="gradient_decoupling is off; switch it on"):
        make_config("cogact", text_output="tied", decoupled_sources=(0,))
    with pytest.raises(ValueError, match="choose one of none, tied, own"):
        make_config("damvla", text_output="two")


def test_it_answers(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(text_output="own"), make_batch()
    free = model.sample(batch, generate=4, stop_id=-1, flow=False).text_ids
    assert free is not None
    states = model.backbone.observe(batch, ContextRequest(layers=(-1,))).states[-1]
    last = states[torch.arange(3), 16 + batch.text_valid.sum(1) - 1]
    assert torch.equal(free[:, 0], (last @ model.backbone.lm_head.weight.T).argmax(-1))
    noise = torch.randn(3, 1, 4, 3)
    spoken = model.sample(batch, noise=noise, generate=4, stop_id=-1).actions
    torch.testing.assert_close(spoken, model.sample(batch, noise=noise).actions)  # the feature ends the prompt

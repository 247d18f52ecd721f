"""Views and prompt see each other, what is answered is causal: a pi0 that writes, with and without a convolution."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from visuomotor.backbones.base import ContextRequest
from visuomotor.contract import Batch, TextKind
from visuomotor.models import make_config
from visuomotor.models.pi0 import Pi0

TINY = {
    "vision.image_size": 32, "vision.patch_size": 16, "vision.width": 16, "vision.layers": 1, "vision.mlp_width": 16,
    "llm.vocab_size": 40, "llm.width": 32, "llm.mlp_width": 32, "llm.layers": 2, "llm.heads": 2, "llm.head_dim": 8,
    "expert.width": 16, "expert.mlp_width": 24, "action_dim": 3, "state_dim": 5, "horizon": 4, "noise_draws": 2,
}  # fmt: skip
PROMPT, ANSWER = int(TextKind.PROMPT), int(TextKind.ANSWER)


@pytest.fixture(params=[0, 4], ids=["plain", "convolution"])
def make_model(request: pytest.FixtureRequest) -> Callable[..., Pi0]:
    def make(**fields: object) -> Pi0:
        torch.manual_seed(0)
        model = Pi0(make_config("pi0", "nano", **{**TINY, "llm.convolution": request.param, **fields}))
        for parameter in model.parameters():  # norms and convolutions begin as the identity
            torch.nn.init.normal_(parameter, std=0.3)
        return model.eval()

    return make


def text_batch(kinds: list[int], turns: list[int] | None = None) -> Batch:
    """Two rows of one text each, one view."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.tensor(kinds).expand(2, -1)
    zeros = torch.zeros(2, dtype=torch.int64)
    return Batch(
        images={"scene": torch.randint(0, 256, (2, 32, 32, 3), generator=generator, dtype=torch.uint8)},
        image_valid=torch.ones(2, 1, dtype=torch.bool),
        text_ids=torch.randint(3, 40, kind.shape, generator=generator),
        text_valid=torch.ones_like(kind, dtype=torch.bool),
        text_kind=kind,
        text_loss=kind == ANSWER,
        text_turn=None if turns is None else torch.tensor(turns).expand(2, -1),
        state=torch.randn(2, 5, generator=generator),
        actions=torch.randn(2, 4, 3, generator=generator),
        action_valid=torch.ones(2, 4, 3, dtype=torch.bool),
        embodiment=zeros,
        source=zeros,
    )


def changed(batch: Batch, slot: int) -> Batch:
    """Another token at one slot of the text."""
    ids = batch.text_ids.clone()
    ids[:, slot] = 39 - ids[:, slot]
    return replace(batch, text_ids=ids)


@torch.no_grad()
def reads(model: Pi0, batch: Batch, slot: int) -> list[bool]:
    """Slots of the text whose last state depends on the token at `slot`."""
    request = ContextRequest(layers=(-1,))
    first, second = (model.backbone.encode(b, request).states[-1] for b in (batch, changed(batch, slot)))
    return (first != second).any(-1).any(0).tolist()[-batch.text_ids.shape[1] :]


def test_a_prompt_is_read_both_ways_and_answers_are_causal(make_model: Callable[..., Pi0]) -> None:
    model, batch = make_model(), text_batch([PROMPT] * 3 + [ANSWER] * 3)
    assert reads(model, batch, 2) == [True] * 6
    assert reads(model, batch, 4) == [False] * 4 + [True] * 2


def test_a_second_question_is_not_seen_by_what_stands_before_it(make_model: Callable[..., Pi0]) -> None:
    model, batch = make_model(), text_batch([PROMPT, PROMPT, ANSWER, PROMPT, PROMPT, ANSWER])
    assert reads(model, batch, 3) == [False] * 3 + [True] * 3
    assert reads(model, batch, 2) == [False] * 2 + [True] * 4


def test_turns_see_the_prompt_and_themselves(make_model: Callable[..., Pi0]) -> None:
    turns = [0, 0, 1, 1, 1, 2, 2, 2]
    model, batch = make_model(), text_batch([PROMPT, PROMPT, PROMPT, PROMPT, ANSWER, PROMPT, PROMPT, ANSWER], turns)
    assert reads(model, batch, 1) == [True] * 8
    assert reads(model, batch, 3) == [False] * 2 + [True] * 3 + [False] * 3
    assert reads(model, batch, 4) == [False] * 4 + [True] + [False] * 3
    assert reads(model, batch, 5) == [False] * 5 + [True] * 3


@torch.no_grad()
def test_what_is_written_is_what_teaching_predicts(make_model: Callable[..., Pi0]) -> None:
    model, batch = make_model(), text_batch([PROMPT] * 4)
    inference = replace(batch, actions=None, action_valid=None)
    written = model.sample(inference, generate=5, stop_id=-1, flow=False).text_ids
    assert written is not None
    whole = text_batch([PROMPT] * 4 + [ANSWER] * 5)
    whole.text_ids[:, :4], whole.text_ids[:, 4:] = batch.text_ids, written
    context = model.backbone.encode(replace(whole, images=batch.images), model.head.request)
    assert context.every is not None
    assert torch.equal(model.backbone._logits(context.every[:, -6:-1]).argmax(-1), written)

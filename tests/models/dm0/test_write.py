"""Lines of text in the prefix's cache: as if each had been encoded anew, and read by the chunk."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from visuomotor.contract import Batch, TextKind
from visuomotor.models.dm0 import DM0
from visuomotor.text.automaton import Automaton
from visuomotor.text.grammar import Line

Make = Callable[..., DM0]
MakeBatch = Callable[..., Batch]
NEWLINE = 2
HEADERS = (torch.tensor([7, 8]), torch.tensor([9, 10, 11]), torch.tensor([12]))


def prompt(batch: Batch) -> Batch:
    """Five tokens of text, three in row 1."""
    cut = {name: getattr(batch, name)[:, :5] for name in ("text_ids", "text_valid", "text_kind", "text_loss")}
    batch = replace(batch, **cut, actions=None, action_valid=None)
    batch.text_valid[1, 3:] = False
    return batch


def known(batch: Batch, texts: Sequence[Sequence[int]], turns: Sequence[Sequence[int]] | None = None) -> Batch:
    """`batch` with a text per row behind its own, encoded from the start."""
    lengths = batch.text_valid.sum(1).tolist()
    longest = max(n + len(t) for n, t in zip(lengths, texts, strict=True))
    ids = torch.zeros(batch.size, longest, dtype=torch.int64)
    valid, turn = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    for row, (n, text) in enumerate(zip(lengths, texts, strict=True)):
        end = n + len(text)
        ids[row, :n], ids[row, n:end] = batch.text_ids[row, :n], torch.tensor(text)
        valid[row, :end] = True
        if turns is not None:
            turn[row, n:end] = torch.tensor(turns[row])
    kind = torch.where(valid, int(TextKind.SUBTASK), int(TextKind.PAD))
    given = None if turns is None else turn
    loss = torch.zeros_like(valid)
    return replace(batch, text_ids=ids, text_valid=valid, text_kind=kind, text_loss=loss, text_turn=given)


def trimmed(line: Tensor, newline: int = NEWLINE) -> list[list[int]]:
    """What each row wrote, without the padding behind its newline."""
    rows = line.tolist()
    return [row[: row.index(newline) + 1] if newline in row else row for row in rows]


def asked(lengths: Sequence[int], turns: bool = False) -> tuple[Line, ...]:
    return tuple(
        Line(header=header, length=length, turn=i + 1 if turns else 0)
        for i, (header, length) in enumerate(zip(HEADERS, lengths, strict=False))
    )


@torch.no_grad()
@pytest.mark.parametrize("convolution", [0, 4])
def test_lines_in_the_cache_equal_lines_that_are_encoded_anew(
    make_model: Make, make_batch: MakeBatch, convolution: int
) -> None:
    model, batch = make_model(**{"llm.convolution": convolution}), prompt(make_batch())
    free = model.sample(batch, noise=torch.zeros(3, 1, 4, 3), lines=asked([6])).lines[0]
    model = make_model(**{"llm.convolution": convolution, "newline_id": int(free[0, 1])})  # row 0 ends a line early
    newline, noise = model.config.newline_id, torch.randn(3, 1, 4, 3)
    found = model.sample(batch, noise=noise, lines=asked([6, 5, 4]))
    assert found.finished is not None
    assert found.finished.all()
    assert len({len(row) for row in trimmed(found.lines[0], newline)}) > 1  # rows stop at different lengths
    texts: list[list[int]] = [[] for _ in range(3)]
    for header, line in zip(HEADERS, found.lines, strict=True):
        texts = [text + header.tolist() for text in texts]
        alone = model.sample(known(batch, texts), noise=noise, generate=line.shape[1])
        assert alone.text_ids is not None
        assert trimmed(alone.text_ids, newline) == trimmed(line, newline)
        texts = [text + row for text, row in zip(texts, trimmed(line, newline), strict=True)]
        ended = [text if text[-1] == newline else [*text, newline] for text in texts]
        texts = ended if header is not HEADERS[-1] else texts
    torch.testing.assert_close(found.actions, model.sample(known(batch, texts), noise=noise).actions, atol=1e-5, rtol=0)


@torch.no_grad()
def test_images_are_encoded_once_and_each_token_costs_one_pass(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(), prompt(make_batch())
    tokens: list[int] = []
    images: list[int] = []
    model.backbone.llm.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    model.backbone.vision.tower.register_forward_hook(lambda *_: images.append(1))
    model.config = replace(model.config, newline_id=39)  # which this model does not write
    lines = asked([4, 4, 4])
    model.sample(known(batch, [[7, 8]] * 3), lines=(replace(lines[0], given=True), *lines[1:]))
    assert len(images) == 1
    assert tokens[1:] == [1] * 4 + [1, 3] + [1] * 4 + [1, 1] + [1] * 4  # line, newline, header, line, ...


@torch.no_grad()
def test_action_tokens_of_a_line_stay_hidden_from_the_chunk(make_model: Make, make_batch: MakeBatch) -> None:
    batch, noise = prompt(make_batch()), torch.randn(3, 1, 4, 3)
    model = make_model(action_start_id=0, action_token_count=40)
    silent = model.sample(batch, noise=noise).actions
    torch.testing.assert_close(model.sample(batch, noise=noise, lines=asked([4, 3])).actions, silent)
    few = make_model(action_start_id=0, action_token_count=1)
    assert (few.sample(batch, noise=noise, lines=asked([4, 3])).actions - silent).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("given", [False, True])
def test_a_line_that_time_cuts_off_is_as_if_it_had_not_been_asked(
    make_model: Make, make_batch: MakeBatch, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, noise = make_model(), prompt(make_batch()), torch.randn(3, 1, 4, 3)
    silent = model.sample(batch, noise=noise)
    begun = known(batch, [HEADERS[0].tolist()] * 3) if given else batch
    lines = (replace(asked([6])[0], given=given), *asked([6, 6])[1:])
    over = model.sample(begun, noise=noise, lines=lines, deadline=time.perf_counter() - 1)
    assert over.finished is not None
    assert not over.finished.any()
    torch.testing.assert_close(over.actions, silent.actions, atol=1e-5, rtol=0)

    now = iter(range(100))
    monkeypatch.setattr("visuomotor.backbones.writing.perf_counter", lambda: float(next(now)))
    first = model.sample(begun, noise=noise, lines=lines[:1])
    cut = model.sample(begun, noise=noise, lines=lines, deadline=4.0)  # three looks at the clock later: in the middle
    assert 0 < cut.lines[0].shape[1] < first.lines[0].shape[1]
    assert cut.lines[1].shape[1] == 0
    torch.testing.assert_close(cut.actions, silent.actions, atol=1e-5, rtol=0)


def pairs() -> tuple[Line, ...]:
    """A line of exactly two tokens of 20 to 29 and the newline."""
    build = Automaton()
    state = build.state({NEWLINE: build.END})
    for _ in range(2):
        state = build.state(dict.fromkeys(range(20, 30), state))
    return (replace(asked([8])[0], grammar=build.grammar(state, 40)),)


@torch.no_grad()
def test_a_grammar_is_kept_and_changes_nothing_that_keeps_it_already(
    make_model: Make, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, lines = make_model(), prompt(make_batch()), pairs()
    free = trimmed(model.sample(batch, lines=(replace(lines[0], grammar=None),)).lines[0])
    kept = trimmed(model.sample(batch, lines=lines).lines[0])
    grammar = lines[0].grammar
    assert grammar is not None
    assert all(grammar.accepts(row) for row in kept)
    assert not any(grammar.accepts(row) for row in free)

    script = iter([*[20, 25, NEWLINE] * 2])
    monkeypatch.setattr(model.backbone, "_logits", lambda states: torch.eye(40)[next(script)].expand(len(states), -1))
    both = [model.sample(batch, lines=asked).lines[0] for asked in (lines, (replace(lines[0], grammar=None),))]
    assert torch.equal(*both)
    assert trimmed(both[0]) == [[20, 25, NEWLINE]] * 3


def test_a_line_too_short_for_its_grammar_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 3; raise max_new_tokens"):
        replace(pairs()[0], length=2)


@torch.no_grad()
@pytest.mark.parametrize("convolution", [0, 4])
def test_parallel_lines_equal_each_line_alone_and_the_chunk_reads_all(
    make_model: Make, make_batch: MakeBatch, convolution: int
) -> None:
    model, batch = make_model(**{"llm.convolution": convolution}), prompt(make_batch())
    noise = torch.randn(3, 1, 4, 3)
    lines = asked([5, 4, 3], turns=True)
    found = model.sample(batch, noise=noise, lines=lines)
    for line, ids in zip(lines, found.lines, strict=True):
        assert torch.equal(model.sample(batch, noise=noise, lines=(line,)).lines[0], ids)
    texts, turns = [[] for _ in range(3)], [[] for _ in range(3)]
    for line, ids in zip(lines, found.lines, strict=True):
        for row, text in enumerate(trimmed(ids)):
            ended = [*text, NEWLINE] if text[-1] != NEWLINE and line is not lines[-1] else text
            texts[row] += line.header.tolist() + ended
            turns[row] += [line.turn] * (len(line.header) + len(ended))
    again = model.sample(known(batch, texts, turns), noise=noise)
    torch.testing.assert_close(found.actions, again.actions, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_parallel_level_changes_no_other_but_the_chunk(make_model: Make, make_batch: MakeBatch) -> None:
    model, batch = make_model(**{"llm.convolution": 4}), prompt(make_batch())
    turns = [[1, 1, 1, 2, 2, 2]] * 3
    one, other = (known(batch, [[7, x, NEWLINE, 9, 22, NEWLINE]] * 3, turns) for x in (20, 21))
    content = torch.tensor([5, 3, 5])[:, None] + torch.tensor([4, 5])  # of the second level, whose header is no target
    second = torch.zeros_like(one.text_valid).scatter(1, content, True)
    parallel = [model.loss(replace(given, text_loss=second)).terms["text"].sum for given in (one, other)]
    assert torch.equal(*parallel)
    noise = torch.randn(3, 1, 4, 3)
    actions = [model.sample(given, noise=noise).actions for given in (one, other)]
    assert (actions[0] - actions[1]).abs().max() > 1e-4
    in_sight = [replace(given, text_loss=second, text_turn=None) for given in (one, other)]
    assert not torch.equal(*(model.loss(given).terms["text"].sum for given in in_sight))

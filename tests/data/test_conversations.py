import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.fakes import CORPUS, FakeDataset
from visuomotor.contract import Batch, Mixture, Source, TextKind
from visuomotor.data.conversations import Conversation, Conversations, write_conversations
from visuomotor.data.dialogue import conversation_sample
from visuomotor.data.loader import Loader
from visuomotor.data.processor import Processor, ProcessorConfig

TALK = Source(name="talk", options={"objective": "conversation"})


def said(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


RECORDS = [
    {"id": "a", "image": "a.png", "conversations": said("<image>\nWhat is\nthere?", "a cup", "What colour?", "red")},
    {"id": "b", "conversations": said("Say yes.", "yes")},
    {"id": "c", "image": ["a.png", "b.png"], "conversations": said("<image><image> Same?", "no")},
    {"id": "d", "image": "a.png", "conversations": said("Is it <image> red?", "yes")},
]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write records as JSON, or lines of text as .jsonl, beside two images."""

    def make(records: list[Any] = RECORDS, name: str = "talk.json") -> Path:
        for i, image in enumerate(("a.png", "b.png")):
            Image.fromarray(np.full((10, 20, 3), 100 + i, dtype=np.uint8)).save(tmp_path / image)
        path = tmp_path / name
        lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
        path.write_text("\n".join(lines) if path.suffix == ".jsonl" else json.dumps(records))
        return path

    return make


def processor(**fields: Any) -> Processor:
    return Processor.build(ProcessorConfig(image_size=16, **fields), [FakeDataset()], CORPUS)


def row_of(talk: Conversations, name: str) -> int:
    return next(r for r in range(talk.num_frames) if f"'{name}'" in talk.place(r))


@pytest.mark.parametrize("name", ["talk.json", "talk.jsonl"])
def test_records_are_read(write: Callable[..., Path], name: str) -> None:
    talk = Conversations(write(name=name))
    first = talk.record(row_of(talk, "a"))
    assert first.turns == (("What is there?", "a cup"), ("What colour?", "red"))
    assert [i.shape for i in first.images] == [(10, 20, 3)]
    assert talk.record(row_of(talk, "d")).turns == (("Is it red?", "yes"),)
    assert [talk.image_count(row_of(talk, n)) for n in "abcd"] == [1, 0, 2, 1]
    episode = next(e for e in range(talk.num_episodes) if row_of(talk, "a") in range(*talk.episode_slice(e).indices(9)))
    assert row_of(talk, "d") in range(*talk.episode_slice(episode).indices(9))  # the same image is the same episode
    assert row_of(talk, "c") in range(*talk.episode_slice(episode).indices(9))  # and so is one image of several
    assert talk.num_episodes == 2


def test_line_separators_inside_a_text_do_not_cut_a_record(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    lines = [json.dumps({"conversations": said("a\u2028b\u0085c", "yes")}, ensure_ascii=False) for _ in range(2)]
    path.write_text("\n".join(lines), encoding="utf-8-sig")
    assert [Conversations(path).turns(row) for row in range(2)] == [(("a b c", "yes"),)] * 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": "none.png", "conversations": said("Q", "A")}, "none.png does not exist"),
        ({"image": "cut.png", "conversations": said("Q", "A")}, "cut.png cannot be read"),
        ({"image": {"x": 1}, "conversations": said("Q", "A")}, "give a path or a list of paths"),
        ({"conversations": said("Q")}, "gpt last"),
        ({"conversations": said("Q", "A")[::-1]}, "human and gpt must alternate"),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "bot", "value": "A"}]}, "'bot'"),
        ({"conversations": said("Q", " ")}, r"turn 2 \(from gpt\) is empty"),
        ({"conversations": said("<image>\n", "A"), "image": "a.png"}, r"turn 1 \(from human\) is empty"),
        ({"conversations": said("<image> Q", "A")}, "1 <image> but it names 0 images"),
        ({"conversations": [{"from": "human", "value": 3}, {"from": "gpt", "value": "A"}]}, "no text"),
        ({"id": "x"}, "no list 'conversations'"),
        ("text", "no list 'conversations'"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(write: Callable[..., Path], record: Any, message: str) -> None:
    path = write([*RECORDS, record])
    (path.parent / "cut.png").write_bytes((path.parent / "a.png").read_bytes()[:40])
    talk = Conversations(path)
    row = next(r for r in range(talk.num_frames) if talk.place(r).startswith("record 5"))
    with pytest.raises(ValueError, match=message):
        talk.record(row)


def test_files_that_are_not_lists_of_conversations_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write()
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match=r"talk.json is not JSON \(cut off\?\)"):
        Conversations(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="holds a dict, not a list"):
        Conversations(path)
    with pytest.raises(ValueError, match="no conversations"):
        Conversations(write([]))
    with pytest.raises(FileNotFoundError, match="cannot be read"):
        Conversations(tmp_path / "other.json")
    lines = Conversations(write([RECORDS[1], '{"conversations": [{"fr'], "cut.jsonl"))
    with pytest.raises(ValueError, match="not JSON"):
        lines.record(1)


def test_the_hash_follows_file_and_images(write: Callable[..., Path]) -> None:
    path = write()
    before = Conversations(path).hash()
    assert Conversations(path).hash() == before
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(path.parent / "b.png")
    assert Conversations(path).hash() != before


def test_answers_are_targets_and_nothing_else() -> None:
    one = processor()
    turns = (("What is there?", "a red block"), ("Where?", "left"))
    sample = conversation_sample(one.config, one.tokenizer, Conversation(turns=turns), np.random.default_rng(0))
    words = one.tokenizer.decode(sample.text_ids)
    assert words == "What is there?\na red block\nWhere?\nleft\n"
    assert one.tokenizer.decode(sample.text_ids[sample.text_loss]) == "a red block\nleft\n"
    assert set(sample.text_kind[sample.text_loss].tolist()) == {int(TextKind.ANSWER)}
    assert sample.text_turn is None  # later turns see the earlier ones
    assert not sample.action_valid.any()
    asked = conversation_sample(one.config, one.tokenizer, Conversation(turns=turns))
    assert words == one.tokenizer.decode(asked.text_ids) + "left\n"
    assert asked.actions is None


def test_the_dm0_layout_has_one_system_sentence() -> None:
    one = processor(prompt="dm0")
    turns = (("What is there?", "a red block"), ("Where?", "left"))
    sample = conversation_sample(one.config, one.tokenizer, Conversation(turns=turns), np.random.default_rng(0))
    text = one.tokenizer.decode(sample.text_ids)
    assert text.count("A chat between") == 1
    assert text.endswith("USER: What is there? ASSISTANT: a red block\nUSER: Where? ASSISTANT: left\n")


def test_turns_beyond_max_text_are_left_out_whole() -> None:
    turns = (("What is there?", "a red block"), ("Where?", "left"))
    whole = processor()
    first = conversation_sample(
        whole.config, whole.tokenizer, Conversation(turns=turns[:1]), np.random.default_rng(0)
    ).text_ids
    cut = processor(max_text=len(first) + 1)
    sample = conversation_sample(cut.config, cut.tokenizer, Conversation(turns=turns), np.random.default_rng(0))
    assert sample.text_ids.tolist() == first.tolist()
    short = processor(max_text=3)
    with pytest.raises(ValueError, match="max_text is 3"):
        conversation_sample(short.config, short.tokenizer, Conversation(turns=turns), np.random.default_rng(0))


def loader(
    path: Path, sources: tuple[Source, ...] = (TALK, Source(name="robot", weight=0.5)), **options: Any
) -> Loader:
    talk = Conversations(path)
    data = {"talk": talk, "robot": FakeDataset()}
    fields = {"batch_size": 4, "seed": 3, "workers": 0, "cache": None, **options}
    mixture = Mixture(sources=sources, validation=0.0)
    return Loader(mixture, processor(), datasets={s.name: data[s.name] for s in sources}, **fields)


@pytest.mark.parametrize("mix", [False, True])
def test_conversations_share_batches_with_robots(write: Callable[..., Path], mix: bool) -> None:
    every = loader(write(), rows_may_mix_views=mix)
    batches = [every.batch(k) for k in range(60)]
    talk = torch.cat([b.source == 0 for b in batches])
    assert abs(talk.sum() - 160) <= (2 if mix else 4)  # weight 1 against 0.5
    assert any(0 < (b.source == 0).sum() < 4 for b in batches)
    for batch in batches:
        rows = batch.source == 0
        assert torch.equal(batch.action_valid.flatten(1).any(1), ~rows)  # type: ignore[union-attr]
        assert not batch.state[rows].any()
        assert not batch.control_hz[rows].any()  # type: ignore[index]
        assert batch.text_loss.any(1).all()
        assert len(batch.image_valid.unique(dim=0)) == 1 or mix
        for place, role in enumerate(("scene", "wrist")):
            if role in batch.images:
                assert torch.equal(batch.images[role].flatten(1).any(1), batch.image_valid[:, place])
    views = {tuple(row) for b in batches for row in b.image_valid[b.source == 0].tolist()}
    assert views == {(False, False), (True, False), (True, True)}


def test_the_kth_batch_depends_on_seed_and_number_only(write: Callable[..., Path]) -> None:
    path = write()
    first = loader(path, workers=2)
    for _ in range(3):
        next(first)
    state = first.state_dict()
    expected: list[Batch] = [next(first) for _ in range(6)]
    first.close()
    resumed = loader(path)
    resumed.load_state_dict(state)
    for batch in expected:
        again = next(resumed)
        assert torch.equal(batch.text_ids, again.text_ids)
        assert all(torch.equal(batch.images[r], again.images[r]) for r in batch.images)


def test_bad_records_stop_or_go_to_quarantine(write: Callable[..., Path], tmp_path: Path) -> None:
    three = {"id": "e", "image": ["a.png"] * 3, "conversations": said("Q", "A")}
    lost = {"id": "f", "conversations": said("<image> Q", "A")}
    path = write([r for r in RECORDS if r["id"] != "b"] + [three, lost])
    alone = loader(path, (TALK,), batch_size=16)
    with pytest.raises(ValueError, match=r"source 'talk', record \d \(id '[ef]'\) of .*talk.json: "):
        [alone.batch(k) for k in range(20)]
    calm = loader(path, (TALK,), batch_size=16, bad_samples="quarantine", quarantine=tmp_path / "bad.jsonl")
    for k in range(20):
        calm.batch(k)
    listed = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert calm.bad_count == len(listed) == 2
    assert "3 images" in listed[0]["error"] + listed[1]["error"]


def test_objectives_and_files_must_fit(write: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"objective 'robot' but is data set .*talk.json"):
        loader(write(), (Source(name="talk"),))
    with pytest.raises(ValueError, match="objective 'conversation' but is data set fake-0"):
        loader(write(), (Source(name="robot", options={"objective": "conversation"}),))


def test_written_conversations_are_read_back(tmp_path: Path) -> None:
    images = [np.full((8, 8, 3), i, dtype=np.uint8) for i in range(3)]
    given = [
        Conversation(turns=(("What?", "this"),), images=(images[0],), kind="caption"),
        Conversation(turns=(("Where?", "there"), ("Sure?", "yes")), images=(images[0],)),
        Conversation(turns=(("Same?", "no"),), images=(images[1], images[2])),
        Conversation(turns=(("Hello?", "hello"),)),
    ]
    talk = Conversations(write_conversations(iter(given), tmp_path / "out"))
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3
    for wanted, row in zip(given, range(talk.num_frames), strict=True):
        found = talk.record(row)
        assert (found.turns, found.kind) == (wanted.turns, wanted.kind)
        assert all(np.array_equal(a, b) for a, b in zip(found.images, wanted.images, strict=True))
    with pytest.raises(FileExistsError, match="not empty"):
        write_conversations(iter(given), tmp_path / "out")


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Any:
        yield Conversation(turns=(("Q", "A"),), images=(np.zeros((2, 2, 3), np.uint8),))
        raise ValueError("no boxes")

    with pytest.raises(ValueError, match="no boxes"):
        write_conversations(broken(), tmp_path / "out")
    assert not list(tmp_path.iterdir())

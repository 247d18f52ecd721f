"""A checkpoint is asked about held-out images; the model is replaced where its words matter."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import recording
from visuomotor.apps.answers import AnswerPlan, evaluate_answers
from visuomotor.apps.report import write_report
from visuomotor.data.conversations import Conversation, Conversations, write_conversations
from visuomotor.data.lerobot import Dataset
from visuomotor.data.loader import held_out
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.data.scene_conversations import scene_conversations
from visuomotor.models import make_config, make_model
from visuomotor.policy import Policy


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return recording.write(tmp_path_factory.mktemp("answers") / "data", change=recording.annotated)


@pytest.fixture(scope="module")
def checkpoint(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ProcessorConfig(image_roles=("scene",), image_size=24, horizon=4, coordinates=100, vocab_size=1024)
    processor = Processor.build(config, [data])
    words = processor.tokenizer
    torch.manual_seed(0)
    small = {
        "vision.image_size": 24,
        "horizon": 4,
        "num_views": 1,
        "llm.layers": 1,
        "llm.width": 32,
        "llm.vocab_size": words.vocab_size,
    }
    ids = {"pad_id": words.pad_id, "newline_id": words.newline_id, "action_start_id": words.action_start}
    model = make_model("dm0", make_config("dm0", "nano", action_dim=8, state_dim=8, **small, **ids))
    folder = tmp_path_factory.mktemp("checkpoint") / "small"
    return Policy(model, processor).save(folder)


def knows(self: Policy, asked: Sequence[Conversation], length: int, *, begin: str = "") -> list[str]:
    """Counts right, and every box a little too wide."""
    answers = []
    for conversation in asked:
        assert conversation.kind != "box" or begin == "Box:"
        expected = conversation.turns[-1][1]
        if conversation.kind == "box":
            *rest, x2, y2 = expected.split()
            expected = " ".join([*rest, str(int(x2) + 1), y2])
        answers.append(expected)
    return answers


def test_held_out_questions_are_scored_and_reported(
    data: Dataset, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Policy, "answer", knows)
    plan = AnswerPlan(
        data=str(data.root), kinds={"count": 1.0, "box": 1.0}, per_image=3, validation=0.3, begin={"box": "Box:"}
    )
    scores = {s.kind: s for s in evaluate_answers(checkpoint, plan, tmp_path / "answers")}
    frames = int(held_out(data.num_episodes, 0.3).sum()) * recording.FRAMES
    assert scores["box"].exact.successes == 0
    assert 0.8 < (scores["box"].mean_iou or 0) < 1.0
    assert scores["box"].exact.n <= frames
    record = json.loads((tmp_path / "answers" / "answers.json").read_text())
    assert record["data_hash"] == data.hash()
    assert record["plan"]["kinds"] == {"count": 1.0, "box": 1.0}
    assert len(record["answers"]) == sum(s.exact.n for s in scores.values() if s.kind != "all")
    text = write_report(tmp_path).read_text()
    assert "<h2>Answers</h2>" in text
    assert f"0/{scores['box'].exact.n}" in text
    with pytest.raises(FileExistsError, match="--overwrite"):
        evaluate_answers(checkpoint, plan, tmp_path / "answers")


def test_a_checkpoint_answers_the_same_each_time_and_in_any_company(
    data: Dataset, checkpoint: Path, tmp_path: Path
) -> None:
    plan = AnswerPlan(data=str(data.root), validation=1, questions=12, per_image=2, max_new_tokens=5, batch_size=3)
    evaluate_answers(checkpoint, plan, tmp_path / "a")
    evaluate_answers(checkpoint, AnswerPlan(**{**vars(plan), "batch_size": 4}), tmp_path / "b")
    first, again = (json.loads((tmp_path / n / "answers.json").read_text())["answers"] for n in "ab")
    assert first == again
    assert len({a["given"] for a in first}) > 1


def test_a_conversation_file_is_asked_turn_by_turn(
    data: Dataset, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = data.frames("front", np.array([0]))[0]
    talk = [
        Conversation(turns=(("Where?", "there"), ("Sure?", "yes")), images=(image,)),
        Conversation(turns=(("Who?", "me"),)),
    ]
    path = write_conversations(iter(talk), tmp_path / "talk")
    seen: list[tuple[int, tuple[tuple[str, str], ...]]] = []

    def note(self: Policy, asked: Sequence[Conversation], length: int, *, begin: str = "") -> list[str]:
        seen.extend((len(c.images), c.turns) for c in asked)
        return ["yes"] * len(asked)

    monkeypatch.setattr(Policy, "answer", note)
    (score,) = evaluate_answers(checkpoint, AnswerPlan(data=str(path), validation=1), tmp_path / "out")
    assert sorted(seen) == [(0, talk[1].turns), (1, talk[0].turns[:1]), (1, talk[0].turns)]
    assert (score.kind, score.exact.successes, score.exact.n) == ("conversation", 1, 3)
    (tmp_path / "talk" / "images" / "000000.png").unlink()
    with pytest.raises(ValueError, match=r"record 1 \(id '0'\) of .*: its image .* does not exist"):
        evaluate_answers(checkpoint, AnswerPlan(data=str(path), validation=1), tmp_path / "other")


def test_written_questions_are_the_ones_that_are_asked(data: Dataset, tmp_path: Path) -> None:
    config = ProcessorConfig(image_roles=("scene",), coordinates=100, questions_per_image=3)
    rows = np.arange(0, 90, 7)
    made = list(scene_conversations(data, rows, config, wording="heldout"))
    talk = Conversations(write_conversations(iter(made), tmp_path / "out"))
    assert talk.num_episodes == len(rows)  # an episode is an image
    for wanted, row in zip(made, range(talk.num_frames), strict=True):
        read = talk.record(row)
        assert (read.turns, read.kind) == (wanted.turns, wanted.kind)
        assert np.array_equal(read.images[0], wanted.images[0])
    alone = list(scene_conversations(data, rows[3:4], config, wording="heldout"))
    same = [c.turns for c in made if np.array_equal(c.images[0], alone[0].images[0])]
    assert [c.turns for c in alone] == same  # a row's questions do not depend on the other rows


def test_data_without_boxes_and_wrong_plans_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    bare = recording.write(tmp_path / "bare")
    with pytest.raises(ValueError, match="no annotation 'boxes'"):
        evaluate_answers(checkpoint, AnswerPlan(data=str(bare.root)), tmp_path / "out")
    with pytest.raises(ValueError, match="validation is 0"):
        AnswerPlan(data="x", validation=0)
    with pytest.raises(ValueError, match="per_image is 0"):
        AnswerPlan(data="x", per_image=0)

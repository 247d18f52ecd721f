"""What CogACT's settings of the processor do to texts and actions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.fakes import CORPUS, SENTENCES, FakeDataset, embodiment
from tests.text.test_llama import write_model
from visuomotor.data.augment import AugmentConfig
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.embodiment import Embodiment
from visuomotor.text.layout import TextRequest
from visuomotor.text.tokenizer import TextTokenizer

PUBLISHED: dict[str, Any] = {"prompt": "cogact", "levels": {}}
LAST = 19  # row of the first episode


def stepping() -> Embodiment:
    """A robot whose position is told as differences."""
    plain = embodiment()
    position, joints, gripper = plain.action
    return replace(plain, action=(replace(position, reference="step"), joints, gripper))


def build(words: TextTokenizer | None = None, **config: Any) -> tuple[Processor, FakeDataset]:
    dataset = FakeDataset(robot=stepping())
    settings = ProcessorConfig(**{**PUBLISHED, **config})
    return Processor.build(settings, [dataset], CORPUS, tokenizer=words), dataset


def sample(processor: Processor, dataset: FakeDataset, row: int, objective: Any = "robot") -> Any:
    images = {c: dataset.frames(c, np.array([row]))[0] for c in dataset.cameras}
    return processor.sample(0, dataset, row, images, np.random.default_rng(0), objective)


def test_training_and_inference_read_the_same_text(tmp_path: Path) -> None:
    for words in (None, TextTokenizer.from_llama(write_model(tmp_path / "llama"))):
        processor, dataset = build(words)
        expected = processor.layout.prompt(TextRequest(instruction=SENTENCES[0]))[0].ids.tolist()
        one = sample(processor, dataset, 3)
        assert one.text_ids.tolist() == expected
        assert not one.text_loss.any()
        batch = processor.observations([dataset.observation(3), dataset.observation(4, SENTENCES[2])])
        assert batch.text_ids[0][batch.text_valid[0]].tolist() == expected
        last = batch.text_valid.sum(1) - 1  # the cognition token, in front of the padding
        assert batch.text_ids[[0, 1], last].tolist() == [processor.tokenizer.eos_id] * 2
        (folder := tmp_path / f"checkpoint_{words is None}").mkdir()
        processor.save(folder)
        assert Processor.load(folder).observations([dataset.observation(3)]).text_ids[0, : len(expected)].tolist() == (
            expected
        )


def test_past_the_end_motion_stands_still_and_the_gripper_stays() -> None:
    repeated, dataset = build()
    still, _ = build(past_end="still")
    row = LAST - 2
    one, other = sample(repeated, dataset, row), sample(still, dataset, row)
    np.testing.assert_array_equal(one.actions[:3], other.actions[:3])
    np.testing.assert_array_equal(one.action_valid, other.action_valid)
    raw = still.robot_actions(other.actions, dataset.columns["observation.state"][row])
    assert (abs(raw[3:, :3]) < 1e-6).all()
    last = dataset.columns["action"][LAST]
    np.testing.assert_allclose(raw[3:, 3:], np.tile(last[3:], (5, 1)), atol=1e-5)
    np.testing.assert_allclose(
        repeated.robot_actions(one.actions, np.zeros(6))[3:, :3], np.tile(last[:3], (5, 1)), atol=1e-5
    )
    whole = sample(still, dataset, 0)  # a chunk within its episode is the same
    np.testing.assert_array_equal(whole.actions, sample(repeated, dataset, 0).actions)


def test_actions_are_clipped_both_ways() -> None:
    plain, dataset = build()
    clipped, _ = build(clip_actions=True)
    rows = [sample(plain, dataset, row).actions for row in range(0, 12)]
    outside = int(np.argmax([abs(actions).max() for actions in rows]))
    assert abs(rows[outside]).max() > 1
    np.testing.assert_array_equal(sample(clipped, dataset, outside).actions, rows[outside].clip(-1, 1))
    state, far = np.zeros(6), np.full((8, 8), 1.7)
    np.testing.assert_array_equal(clipped.robot_actions(far, state), plain.robot_actions(far.clip(-1, 1), state))


def test_the_state_is_clipped_where_the_configuration_says_so() -> None:
    plain, dataset = build()
    clipped, _ = build(clip_state=True)
    rows = [sample(plain, dataset, row).state for row in range(12)]
    outside = int(np.argmax([abs(state).max() for state in rows]))
    assert abs(rows[outside]).max() > 1
    np.testing.assert_array_equal(sample(clipped, dataset, outside).state, rows[outside].clip(-1, 1))
    assert not clipped.units[0].action.clip


def test_grippers_open_or_close() -> None:
    processor, _ = build(binary_grippers=True)
    plain, _ = build()
    chunk = np.linspace(-0.9, 0.9, 8)[:, None].repeat(8, axis=1)  # opened is 1, closed -1, and nothing is normalised
    found, expected = (p.robot_actions(chunk, np.zeros(6)) for p in (processor, plain))
    np.testing.assert_array_equal(found[:, :5], expected[:, :5])
    np.testing.assert_array_equal(found[:, 5], [-1, -1, -1, -1, 1, 1, 1, 1])
    assert processor.robot_actions(np.zeros((8, 8)), np.zeros(6))[0, 5] == 1  # in the middle it opens, as published


def test_nothing_else_fits_into_the_text() -> None:
    with pytest.raises(ValueError, match="ends with its question"):
        ProcessorConfig(prompt="cogact")
    with pytest.raises(ValueError, match="ends with its question"):
        ProcessorConfig(prompt="cogact", levels={}, tags=True)
    with pytest.raises(ValueError, match="past_end is 'stop'"):
        ProcessorConfig(past_end="stop")  # type: ignore[arg-type]


def test_questions_on_images_are_those_of_prismatic_models(tmp_path: Path) -> None:
    llama = TextTokenizer.from_llama(write_model(tmp_path / "llama"))
    for words in (None, llama):
        processor, dataset = build(words)
        tokens, layout = processor.tokenizer, processor.layout
        pieces = layout.exchange("What is up?", "the can")
        ids = np.concatenate([piece.ids for piece in pieces])
        assert tokens.decode(ids) == "In: What is up?\nOut: the can"
        assert (ids[0], ids[-1], layout.answer_end) == (tokens.begin_id, tokens.eos_id, tokens.eos_id)
        assert [piece.target for piece in pieces] == [False, False, True]
        open_end = layout.exchange("What is up?", None)
        assert [piece.ids.tolist() for piece in open_end] == [piece.ids.tolist() for piece in pieces[:2]]
        assert len(layout.exchange("What is up?", "the can", first=False)) == 2
    processor, dataset = build()
    one = sample(processor, dataset, 3, "grounding")
    assert one.text_loss.any()
    turns = one.text_turn
    assert turns[0] == 0  # all questions see the BOS of the first, which stands in front of the images
    assert (turns[1:] > 0).all()
    turning, _ = build(augment=AugmentConfig(crop=0.1))
    with pytest.raises(ValueError, match="do not move boxes"):
        sample(turning, dataset, 3, "grounding")


def test_words_without_action_tokens_write_no_action_line(tmp_path: Path) -> None:
    words = TextTokenizer.from_llama(write_model(tmp_path / "llama"))
    with pytest.raises(ValueError, match="0 action tokens"):
        build(words, prompt="plain", levels={"action": 0.5})
    with pytest.raises(ValueError, match="no action tokens"):
        build(words, prompt="plain", levels={})[0].grammar("action")
    with pytest.raises(ValueError, match="no level 'action'"):
        build(words)[0].grammar("action")

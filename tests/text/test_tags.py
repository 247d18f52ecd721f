from dataclasses import replace

import numpy as np
import pytest
from tokenizers import AddedToken

from tests.data.fakes import CORPUS, SENTENCES, FakeDataset, embodiment
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.embodiment import Embodiment
from visuomotor.text.tags import tag_pieces, tags_of
from visuomotor.text.templates import is_held_out
from visuomotor.text.tokenizer import TextTokenizer

BOTH = embodiment(name="Arx-5")


def robot(*names: str) -> Embodiment:
    return replace(BOTH, action=tuple(c for c in BOTH.action if c.name in names))


def prompts(config: ProcessorConfig, words: TextTokenizer | None = None, rows: int = 20) -> tuple[Processor, list[str]]:
    """A processor for an arm that moves its joints, and what the users of its training samples said."""
    data = FakeDataset(robot=robot("joints", "gripper"))
    processor = Processor.build(config, [data], CORPUS, tokenizer=words)
    said = []
    for row in range(rows):
        images = {c: data.frames(c, np.array([row]))[0] for c in data.cameras}
        one = processor.sample(0, data, row, images, np.random.default_rng(row))
        said.append(processor.tokenizer.decode(one.text_ids).partition("\n")[0])
    return processor, said


def test_tags_name_the_robot_and_what_its_actions_move() -> None:
    assert tags_of(robot("joints", "gripper")) == ("<robot_arx_5>", "<joint_control>")
    assert tags_of(robot("position", "gripper")) == ("<robot_arx_5>", "<eef_control>")


@pytest.mark.parametrize("parts", [("position", "joints", "gripper"), ("gripper",)])
def test_a_control_that_cannot_be_told_is_refused(parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"'Arx-5' acts by .*gripper \(gripper\), so its control tag"):
        tags_of(robot(*parts))
    with pytest.raises(ValueError, match="set tags to false"):
        Processor.build(ProcessorConfig(tags=True), [FakeDataset(robot=robot(*parts))], CORPUS)


def test_special_tokens_are_inserted_by_id_and_cannot_be_typed() -> None:
    words = TextTokenizer.train(CORPUS)
    text = tag_pieces(words, robot("joints"))
    assert "".join(words.decode(p.ids) for p in text) == "<robot_arx_5> <joint_control> "
    words.inner.add_special_tokens([AddedToken("<joint_control>", special=True)])
    words = TextTokenizer(words.inner)
    name, control = tag_pieces(words, robot("joints"))
    assert words.decode(name.ids) == "<robot_arx_5> "
    assert control.ids.tolist() == [words.inner.token_to_id("<joint_control>")]
    assert control.ids[0] not in words.encode("<joint_control>")


def test_training_and_inference_begin_with_the_same_tags() -> None:
    processor, said = prompts(ProcessorConfig(tags=True))
    assert all(s.startswith("<robot_arx_5> <joint_control> ") for s in said)
    observed = processor.observations([FakeDataset(robot=robot("joints", "gripper")).observation(0)])
    assert processor.tokenizer.decode(observed.text_ids[0]) == said[0] + "\n"
    assert prompts(ProcessorConfig())[1][0] == SENTENCES[0]


def test_training_words_vary_and_inference_has_canonical_or_held_out_ones() -> None:
    fields = {"levels": {"subtask": 1.0}, "vocab_size": 1024}
    _, said = prompts(ProcessorConfig(templates="grammar", **fields))
    assert len(set(said)) > 15
    assert all(SENTENCES[0] in s for s in said)
    data = FakeDataset(robot=robot("joints", "gripper"))
    texts = {}
    for wording in ("grammar", "heldout"):
        processor = Processor.build(ProcessorConfig(templates=wording, **fields), [data], CORPUS)  # type: ignore[arg-type]
        batches = [processor.observations([data.observation(0)], levels=("subtask",)) for _ in range(2)]
        assert batches[0].text_ids.tolist() == batches[1].text_ids.tolist()
        texts[wording] = processor.tokenizer.decode(batches[0].text_ids[0]).partition("\n")[0]
        known = processor.observations([data.observation(0)], text=[{"subtask": "reach"}])
        assert processor.tokenizer.decode(known.text_ids[0]).partition("\n")[0] == texts[wording]
    assert texts["grammar"] == f"{SENTENCES[0]}; say sub-task"
    template = texts["heldout"].replace(SENTENCES[0], "{instruction}").replace("Arx-5", "{robot}")
    assert is_held_out(("instruction", "subtask"), template)

"""DexVLA's texts against transformers' Qwen2 tokenizer on the whole conversation at once."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from transformers import Qwen2Tokenizer

from tests.data.fakes import CORPUS, FakeDataset
from tests.text.test_qwen import qwen_folder  # noqa: F401 (a fixture)
from visuomotor.contract import TextKind
from visuomotor.data.augment import AugmentConfig, centre_crop
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.data.sample import Sample
from visuomotor.text.chat import ChatLayout
from visuomotor.text.layout import TextRequest, lay_out
from visuomotor.text.scaffold import text_of
from visuomotor.text.tokenizer import TextTokenizer

CONFIG = ProcessorConfig(prompt="qwen2_vl", levels={"subtask": 1.0}, max_text=256)
INSTRUCTION = "put the red  block\ninto the bowl, isn't it?"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"<|im_start|>user\n{IMAGE}{IMAGE}{INSTRUCTION}<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.mark.parametrize(
    ("reasoning", "answer"),
    [("reach for it.", "reach for it.Next action:<|im_end|>"), ("", " Next action:<|im_end|>"), (None, "<|im_end|>")],
)
def test_ids_are_those_of_the_whole_conversation(qwen_folder: Path, reasoning: str | None, answer: str) -> None:  # noqa: F811
    words = TextTokenizer.from_qwen(qwen_folder, add_dm0_tokens=False)
    # Data without a sub-task has the placeholder; None: reasoning is switched off.
    contents = {} if reasoning is None else {"subtask": reasoning or ChatLayout.placeholder}
    request = TextRequest(instruction=INSTRUCTION, views=2, contents=contents, complete=True)
    ids, kinds, targets, _ = text_of(lay_out(ChatLayout(words), request))
    oracle = Qwen2Tokenizer.from_pretrained(str(qwen_folder))
    assert ids.tolist() == oracle.encode(PROMPT + answer, add_special_tokens=False)
    expected = np.arange(len(ids)) >= len(oracle.encode(PROMPT, add_special_tokens=False))
    assert (targets == expected).all()
    assert (kinds == np.where(expected, TextKind.SUBTASK, TextKind.PROMPT)).all()


def pictures(dataset: FakeDataset) -> dict[str, np.ndarray]:
    return {camera: dataset.frames(camera, np.array([3]))[0] for camera in dataset.cameras}


def test_a_plain_public_vocabulary_has_no_action_tokens(qwen_folder: Path) -> None:  # noqa: F811
    words = TextTokenizer.from_qwen(qwen_folder, add_dm0_tokens=False)
    assert (words.action_count, words.action_start) == (0, None)
    dataset = FakeDataset(2)
    processor = Processor.build(CONFIG, [dataset], tokenizer=words)
    assert (processor.sample(0, dataset, 3, pictures(dataset), np.random.default_rng(0)).text_loss).any()
    with pytest.raises(ValueError, match="0 action tokens"):
        Processor.build(ProcessorConfig(levels={"action": 1.0}), [dataset], tokenizer=words)


def test_samples_and_observations(processor: Processor) -> None:
    dataset, words = DATASET, processor.tokenizer

    def said(sample: Sample, targets: bool) -> str:
        return words.decode(sample.text_ids[sample.text_loss == targets])

    rng = np.random.default_rng(0)
    sample = processor.sample(0, dataset, 3, pictures(dataset), rng)
    annotation = dataset.annotations(np.array([3]))[0]
    assert said(sample, True) == f"{annotation.subtask}Next action:"
    assert said(sample, False) == f"system\nYou are a helpful assistant.\nuser\n{dataset.instruction(0)}\nassistant\n"
    assert words.vocab_size <= CONFIG.vocab_size
    observed = processor.observations([dataset.observation(3)], levels=("subtask",))
    length = int(observed.text_valid.sum())
    assert observed.text_ids[0, :length].tolist() == sample.text_ids[~sample.text_loss].tolist()
    known = processor.observations([dataset.observation(3)], text=[{"subtask": annotation.subtask}])
    length = int(known.text_valid.sum())
    assert known.text_ids[0, :length].tolist() == sample.text_ids[:-1].tolist()  # without the end of the turn
    assert known.text_kind[0, :length].tolist() == sample.text_kind[:-1].tolist()
    assert processor.parse_text(sample.text_ids[sample.text_loss]) == {"subtask": annotation.subtask}


def test_all_cameras_of_a_sample_are_augmented_alike_and_observations_are_cropped(processor: Processor) -> None:
    config = dataclasses.replace(CONFIG, augment=AugmentConfig(crop=0.3, rotation=5.0, saturation=0.5, shared=True))
    alike = Processor(config, processor.embodiments, processor.statistics, processor.tokenizer)
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    both = dict.fromkeys(DATASET.cameras, image)
    scene, wrist = alike.sample(0, DATASET, 3, both, np.random.default_rng(1)).images.values()
    np.testing.assert_array_equal(scene, wrist)
    assert (scene != image).any()
    seen = alike.observations([dataclasses.replace(DATASET.observation(3), images=both)]).images["wrist"][0]
    np.testing.assert_array_equal(seen, centre_crop(image, 0.3))
    with pytest.raises(ValueError, match="boxes and points"):
        ProcessorConfig(augment=AugmentConfig(crop=0.1))


def test_contradictions_are_refused(processor: Processor) -> None:
    for wrong in ({"levels": {"subtask": 0.5}}, {"levels": {"subtask": 1.0, "action": 1.0}}, {"tags": True}):
        with pytest.raises(ValueError, match="qwen2_vl"):
            dataclasses.replace(CONFIG, **wrong)
    with pytest.raises(ValueError, match="Questions on images"):
        processor.sample(0, DATASET, 3, pictures(DATASET), np.random.default_rng(0), objective="grounding")
    with pytest.raises(ValueError, match="not 'box'"):
        processor.header("box")
    with pytest.raises(ValueError, match="no token"):
        ChatLayout(TextTokenizer.train(CORPUS, 640)).prompt(TextRequest(instruction=INSTRUCTION))


DATASET = FakeDataset(2)


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.build(CONFIG, [DATASET], CORPUS)

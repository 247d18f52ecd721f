from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertTokenizerFast, DistilBertConfig, DistilBertModel

from tests.data.fakes import CORPUS, SENTENCES, FakeDataset
from visuomotor.contract import Mixture, Source
from visuomotor.data.loader import Loader
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.text.sentences import HASHED, Sentences


def test_hashed_embeddings_are_the_same_everywhere_and_near_for_shared_words() -> None:
    embed = Sentences(HASHED)
    grasp, again, other = (embed(t) for t in ("grasp the red block", " Grasp  the red block", "open the drawer"))
    assert grasp.shape == (embed.width,)
    assert grasp.dtype == np.float32
    assert np.array_equal(grasp, again)
    assert np.linalg.norm(grasp) == pytest.approx(1, abs=1e-6)
    assert grasp @ embed("grasp the green block") > 0.5 > grasp @ other
    assert np.flatnonzero(embed("go")).tolist() == [79, 99, 116]  # of no process, machine or version
    assert not embed("").any()


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilbert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for s in SENTENCES for w in s.split()})]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=len(words), dim=12, hidden_dim=24, n_layers=2, n_heads=2)
    DistilBertModel(config).save_pretrained(folder)
    return folder


def test_distilbert_is_the_mean_of_its_last_layer(distilbert: Path) -> None:
    embed = Sentences(str(distilbert))
    assert embed.width == 12
    ids = BertTokenizerFast.from_pretrained(distilbert)(SENTENCES[0], return_tensors="pt").input_ids
    model = DistilBertModel.from_pretrained(distilbert).eval()
    with torch.no_grad():
        expected = model(ids).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(embed(SENTENCES[0]), expected, atol=1e-6)
    assert not np.allclose(embed(SENTENCES[0]), embed(SENTENCES[2]))


def test_a_missing_distilbert_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No DistilBERT could be loaded from"):
        Sentences(str(tmp_path / "nowhere"))


def build(dataset: FakeDataset, **config: object) -> Processor:
    return Processor.build(ProcessorConfig(sentence=HASHED, levels={}, **config), [dataset], CORPUS)  # type: ignore[arg-type]


@pytest.mark.parametrize(("source", "said"), [("subtask", "reach for the red block"), ("instruction", SENTENCES[0])])
def test_samples_are_told_the_sub_step_or_the_instruction(source: str, said: str) -> None:
    dataset = FakeDataset()
    processor = build(dataset, sentence_of=source)
    images = {c: dataset.frames(c, np.array([3]))[0] for c in dataset.cameras}
    sample = processor.sample(0, dataset, 3, images, np.random.default_rng(0))
    assert np.array_equal(sample.labels["sentence"], Sentences(HASHED)(said))


def test_at_inference_the_instruction_is_told_unless_a_sub_step_is_known(tmp_path: Path) -> None:
    dataset = FakeDataset()
    build(dataset).save(tmp_path)
    processor, embed = Processor.load(tmp_path), Sentences(HASHED)
    seen = dataset.observation(3, "grasp")
    batch = processor.observations([seen, seen], text=[{}, {"subtask": "lift"}])
    assert np.array_equal(batch.labels["sentence"].numpy(), np.stack([embed("grasp"), embed("lift")]))


def test_sub_steps_need_their_annotation(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = FakeDataset()
    monkeypatch.setattr(dataset, "has", lambda annotation: False)
    mixture = Mixture(sources=(Source(name="robot", path="data0"),), validation=0.0)

    def load(**config: object) -> Loader:
        return Loader(mixture, build(dataset, **config), batch_size=2, seed=0, datasets={"robot": dataset}, cache=None)

    load(sentence_of="instruction").close()
    with pytest.raises(ValueError, match=r"no annotation 'subtask', which processor\.sentence_of"):
        load()

import dataclasses
from pathlib import Path

import pytest
import torch

from tests.data.fakes import CORPUS, FakeDataset, embodiment
from visuomotor.contract import Stage
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.models import make_config, make_model
from visuomotor.policy import Policy
from visuomotor.recipes import find_recipe, override
from visuomotor.recipes import finetune as module
from visuomotor.training.assembly import build_processor

CONFIG = ProcessorConfig(horizon=4, action_width=8, state_width=8, vocab_size=640)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny DM0 for the fakes' embodiment."""
    processor = Processor.build(CONFIG, [FakeDataset()], CORPUS)
    config = make_config(
        "dm0", horizon=4, **{"vision.image_size": 24, "vision.layers": 1, "llm.layers": 1, "llm.width": 32},
        **{"llm.vocab_size": 640}, newline_id=processor.tokenizer.newline_id, pad_id=processor.tokenizer.pad_id,
    )  # fmt: skip
    return Policy(make_model("dm0", config), processor).save(tmp_path_factory.mktemp("parent") / "step-000001")


def opened(monkeypatch: pytest.MonkeyPatch, dataset: FakeDataset) -> FakeDataset:
    monkeypatch.setattr(module, "open_source", lambda path: dataset)
    return dataset


def test_model_and_processor_come_from_the_checkpoint(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = opened(monkeypatch, FakeDataset(seed=5))
    run = find_recipe("finetune")(data="mine", start=str(parent))
    assert run.config.llm.width == 32
    stage: Stage = run.stages["train"]
    assert (stage.start, stage.mixture.sources[0].path) == (str(parent), "mine")
    theirs = Processor.load(parent)
    assert build_processor(run, {"robot": dataset}).statistics == theirs.statistics
    own = find_recipe("finetune")(data="mine", start=str(parent), statistics="data")
    fresh = build_processor(own, {"robot": dataset})
    assert fresh.statistics != theirs.statistics
    assert fresh.tokenizer.vocab_size == theirs.tokenizer.vocab_size


def test_processor_fields_may_change_unless_they_change_the_meaning(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(monkeypatch, FakeDataset())
    run = find_recipe("finetune")(data="mine", start=str(parent))
    changed = dataclasses.replace(run, processor={**run.processor, "max_text": 99})
    assert build_processor(changed, {"robot": dataset}).config.max_text == 99
    refused = dataclasses.replace(run, processor={**run.processor, "action_reference": "chunk_start"})
    with pytest.raises(ValueError, match=r"processor\.action_reference changes what actions mean"):
        build_processor(refused, {"robot": dataset})


def test_a_longer_chunk_needs_statistics_of_its_own_where_actions_are_differences_to_its_start(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(monkeypatch, FakeDataset())
    run = override(find_recipe("finetune")(data="mine", start=str(parent)), {"config.horizon": "6"})
    assert build_processor(run, {"robot": dataset}).config.horizon == 6
    config = dataclasses.replace(CONFIG, action_reference="chunk_start")
    Processor.build(config, [dataset], CORPUS).save(tmp_path)
    source = dataclasses.replace(run.processor_from, checkpoint=str(tmp_path))
    relative = dataclasses.replace(run, processor_from=source)
    with pytest.raises(ValueError, match="The horizon changes what actions mean, but statistics come from"):
        build_processor(relative, {"robot": dataset})
    own = dataclasses.replace(relative, processor_from=dataclasses.replace(source, statistics="data"))
    assert build_processor(own, {"robot": dataset}).config.horizon == 6


def test_another_embodiment_is_refused_naming_both_sides(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, FakeDataset(robot=dataclasses.replace(embodiment(name="other"), control_hz=30.0)))
    with pytest.raises(ValueError, match=r"Data set mine is for embodiment 'other' but checkpoint .* 30.0 Hz"):
        find_recipe("finetune")(data="mine", start=str(parent))


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a checkpoint"):
        find_recipe("finetune")(data="mine", start=str(tmp_path))


def test_data_and_checkpoint_must_be_given() -> None:
    with pytest.raises(ValueError, match="missing a required argument"):
        find_recipe("finetune")()


def test_what_learns_may_be_limited(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, FakeDataset())
    recipe = find_recipe("finetune")
    for options, learning in (
        ({}, {"*"}),
        ({"lora": 4}, {"llm", "expert", "action_io"}),
        ({"freeze_prefix": True}, {"expert", "action_io"}),
    ):
        stage = recipe(data="mine", start=str(parent), **options).stages["train"]
        assert (set(stage.trains), stage.lora) == (learning, options.get("lora", 0))
    with pytest.raises(ValueError, match="choose one"):
        recipe(data="mine", start=str(parent), lora=4, freeze_prefix=True)


def test_the_parts_that_act_are_those_of_the_model() -> None:
    for model, fields in (("dm0", {}), ("dexvla", {}), ("cogact", {}), ("damvla", {}), ("damvla", {"dam": False})):
        config = make_config(model, **fields)
        with torch.device("meta"):
            parts = make_model(model, config).parts()
        assert (
            {"llm", *module._learning_parts(model, config, 0, True)}
            == set(module._learning_parts(model, config, 4, False))
            < parts.keys()
        )
    with pytest.raises(ValueError, match="'fake'"):
        module._learning_parts("fake", None, 4, False)

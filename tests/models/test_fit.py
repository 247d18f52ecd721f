"""Shapes and token ids are decided once; what was put together by hand is refused in one sentence."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.data.fakes import CORPUS, FakeDataset
from visuomotor.contract import Mixture, Run, Stage
from visuomotor.data.config import ProcessorConfig
from visuomotor.data.processor import Processor
from visuomotor.models import make_config, make_model
from visuomotor.models.fit import fitted, processor_config, require_fit
from visuomotor.policy import Policy, load_policy
from visuomotor.recipes import override

TINY = {"vision.image_size": 24, "vision.layers": 1, "llm.layers": 1, "llm.width": 32}


def make_run(model: str = "dm0", processor: dict[str, Any] | None = None, **fields: Any) -> Run:
    config = make_config(model, "nano", **fields)
    stages = {"train": Stage(name="train", steps=1, mixture=Mixture(sources=()))}
    return Run(name="mine", model=model, config=config, stages=stages, processor=processor or {})


@pytest.mark.parametrize(
    ("model", "fields", "made"),
    [
        ("dm0", {"horizon": 6, "action_dim": 9, "state_dim": 7, "vision.image_size": 48}, (6, 9, 7, 48, "plain")),
        ("cogact", {"action_model.horizon": 6, "action_model.action_dim": 9}, (6, 9, 8, 96, "cogact")),
        ("damvla", {"action_model.horizon": 6, "action_model.action_dim": 9}, (6, 9, 8, 96, "cogact")),
        ("oft", {"horizon": 6, "action_dim": 9, "state_dim": 7}, (6, 9, 7, 96, "openvla_oft")),
        ("dexvla", {"head.horizon": 6, "head.action_dim": 9, "head.state_dim": 7}, (6, 9, 7, None, "qwen2_vl")),
        ("dexvla-expert", {"head.horizon": 6, "head.action_dim": 9, "image_size": 48}, (6, 9, 8, 48, "plain")),
    ],
)
def test_the_processor_takes_its_shapes_from_the_model(model: str, fields: dict, made: tuple) -> None:
    config = processor_config(make_run(model, {"levels": {}}, **fields))
    assert (config.horizon, config.action_width, config.state_width, config.image_size, config.prompt) == made


@pytest.mark.parametrize("field", ["horizon", "action_width", "state_width", "image_size"])
def test_a_shape_that_the_model_decides_is_set_nowhere_else(field: str) -> None:
    with pytest.raises(ValueError, match=f"processor.{field} is decided by the model"):
        processor_config(make_run(processor={field: 5}))
    with pytest.raises(ValueError, match=f"processor.{field} is decided by the model"):
        override(make_run(), {f"processor.{field}": "5"})


def test_images_may_stay_as_they_are_stored() -> None:
    assert processor_config(make_run(processor={"image_size": None})).image_size is None
    assert processor_config(make_run(), ProcessorConfig(image_size=None)).image_size is None
    assert processor_config(make_run(), ProcessorConfig(image_size=24, horizon=5)).image_size == 96


def test_the_model_takes_words_and_robots_from_the_processor() -> None:
    dataset = FakeDataset()
    run = make_run("dexvla", {"levels": {"subtask": 1.0}}, head_per_embodiment=True)
    processor = Processor.build(processor_config(run), [dataset], CORPUS)
    config = fitted(run.config, processor)
    words = processor.tokenizer
    assert (config.pad_id, config.end_id) == (words.pad_id, words.special("<|im_end|>")[0])  # type: ignore[index]
    assert config.head.embodiments == (dataset.embodiment.name,)
    assert config.head.action_dims == (dataset.embodiment.action_dim,)
    assert fitted(config, processor) == config


def test_a_folder_put_together_from_two_checkpoints_is_refused(tmp_path: Path) -> None:
    policies = {}
    for horizon, size in ((4, 640), (6, 700)):
        run = make_run(horizon=horizon, processor={"vocab_size": size}, **TINY)
        processor = Processor.build(processor_config(run), [FakeDataset()], CORPUS)
        model = make_model("dm0", fitted(run.config, processor))
        policies[horizon] = Policy(model, processor).save(tmp_path / str(horizon))
    shutil.copy(policies[6] / "processor.json", policies[4])
    with pytest.raises(ValueError, match=r"not made for this processor: horizon is 4, not 6\. Take both from one"):
        load_policy(policies[4])


def test_every_difference_is_named() -> None:
    run = make_run(**TINY)
    processor = Processor.build(processor_config(run), [FakeDataset()], CORPUS)
    model = make_model("dm0", replace(fitted(run.config, processor), horizon=5, newline_id=7, image_pad="black"))
    with pytest.raises(
        ValueError, match=r"horizon is 5, not 8; newline_id is 7, not \d+; image_pad is 'black', not 'grey'"
    ):
        require_fit(model, processor)

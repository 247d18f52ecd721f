from pathlib import Path
from typing import Any

import pytest

import visuomotor
from visuomotor.contract import Run
from visuomotor.recipes import find_recipe, override


@pytest.fixture
def run() -> Run:
    return find_recipe("tabletop-nano")(data="some/folder")


def stage_of(run: Run) -> Any:
    return run.stages["train"]


def test_any_field_of_any_depth_with_its_type(run: Run) -> None:
    changed = override(
        run,
        {
            "stages.train.steps": "1e4",
            "stages.train.minutes": "7.5",
            "stages.train.batch-size": "32",
            "stages.train.trains.vision": "1e-4",
            "stages.train.loss_weights.text": "0.5",
            "stages.train.mixture.validation": "0.1",
            "stages.train.mixture.sources.grounding.weight": "2",
            "stages.train.mixture.sources.0.path": "another",
            "config.vision.width": "48",
            "config.gradient_decoupling": "false",
            "config.state_token": "none",
            "config.decoupled_sources": "[0, 1]",
            "processor.max_text": "128",
            "processor.levels.box": "0.25",
            "processor.augment.shift": "0.1",
            "evaluation.splits": "train,heldout_paraphrase",
            "evaluation.options.vocabulary": "full",
        }
        | {"config.gradient_decoupling": "true"},
    )
    stage = stage_of(changed)
    assert (stage.steps, stage.minutes, stage.batch_size) == (10000, 7.5, 32)
    assert stage.trains == {"*": 2e-3, "vision": 1e-4}
    assert stage.loss_weights == {"text": 0.5}
    assert stage.mixture.validation == 0.1
    assert [(s.path, s.weight) for s in stage.mixture.sources] == [
        ("another", 1.0),
        ("some/folder", 0.3),
        ("some/folder", 2.0),
    ]
    assert (changed.config.vision.width, changed.config.state_token) == (48, "none")
    assert changed.config.decoupled_sources == (0, 1)
    assert changed.processor["max_text"] == 128
    assert changed.processor["levels"] == {"subtask": 0.7, "action": 0.5, "box": 0.25}
    assert changed.processor["augment"].shift == 0.1
    assert changed.evaluation is not None
    assert changed.evaluation.splits == ("train", "heldout_paraphrase")
    assert changed.evaluation.options == {"vocabulary": "full"}
    assert changed.overrides["stages.train.steps"] == "1e4"
    assert stage_of(run).steps != 10000


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("stages.trian.steps", "3", "Did you mean 'stages.train.steps'"),
        ("stages.train.stepz", "3", "Did you mean 'stages.train.steps'"),
        ("config.vision.widht", "3", "Did you mean 'config.vision.width'"),
        ("processor.horizn", "3", "Did you mean 'processor.horizon'"),
        (
            "stages.train.mixture.sources.grundig.weight",
            "3",
            "'stages.train.mixture.sources.grounding.weight'",
        ),
        ("stages.train.steps", "many", "expected a whole number"),
        ("stages.train.steps", "2.5", "expected a whole number"),
        ("config.gradient_decoupling", "maybe", "true or false"),
        ("config.state_token", "expart", "Did you mean 'expert'"),
        ("stages.train", "3", "name one of its fields"),
        ("stages.train.steps.more", "3", "has no fields"),
        ("stages.train.mixture", "3", "name one of its fields"),
    ],
)
def test_mistakes_are_named(run: Run, name: str, value: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        override(run, {name: value})


def test_one_key_of_a_checkpoints_processor_leaves_its_others_as_they_are() -> None:
    shipped = Path(visuomotor.__file__).parent / "checkpoints" / "tabletop-nano"
    started = find_recipe("tabletop-nano")(data="some/folder", start=str(shipped))
    changed = override(started, {"processor.levels.subtask": "0"})
    assert changed.processor["levels"] == {"subtask": 0.0, "box": 0.9, "action": 0.5}
    assert changed.processor_from.checkpoint == str(shipped)

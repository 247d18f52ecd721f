from pathlib import Path

import pytest

from visuomotor.contract import ProcessorSource, Run
from visuomotor.models.fit import processor_config
from visuomotor.recipes import RECIPES, find_recipe, list_recipes
from visuomotor.recipes.own_data import conversation_sources

OWN = '''
from visuomotor.contract import Mixture, Run, Source, Stage
from visuomotor.models import make_config

def mine(data: str = "somewhere") -> Run:
    """My recipe."""
    stage = Stage(name="a", steps=3, mixture=Mixture(sources=(Source(name="robot", path=data),)))
    return Run(name="mine", model="dm0", config=make_config("dm0"), stages={"a": stage})

def wrong() -> int:
    return 3
'''


OTHERS = ("finetune", "own-data", "dm0", "cogact")  # take more than `data`, or have tests of their own


@pytest.mark.parametrize("name", [n for n in RECIPES if n not in OTHERS and "dexvla" not in n])
def test_recipes_return_runs_whose_parts_fit(name: str) -> None:
    run = find_recipe(name)(data="some/folder", seed=3)
    assert isinstance(run, Run)
    stage = run.stages["train"]
    assert stage.name == "train"
    assert stage.seed == 3
    assert stage.mixture.sources[0].path == "some/folder"
    made = processor_config(run)
    assert (made.horizon, made.action_width) == (run.config.horizon, run.config.action_dim)
    assert made.image_size == run.config.image_size == 96
    assert len(run.corpus) > 100


def test_tabletop_grounding_comes_from_scenes_or_the_demonstrations() -> None:
    recipe = find_recipe("tabletop-nano")
    assert [s.path for s in recipe(data="a").stages["train"].mixture.sources] == ["a", "a", "a"]
    assert [s.path for s in recipe(data="a", scenes="b").stages["train"].mixture.sources] == ["a", "b", "b"]
    assert len(recipe(data="a", grounding=0).stages["train"].mixture.sources) == 1


def test_a_model_from_nothing_looks_first() -> None:
    recipe = find_recipe("tabletop-nano")
    see, train, act = recipe(steps=1000, minutes=10, see=0.2, act=0.3).stages.values()
    assert [see.name, see.steps, see.minutes] == ["see", 200, 2]
    assert [train.name, train.steps, train.minutes] == ["train", 500, 5]
    assert [act.name, act.steps, act.minutes] == ["act", 300, 3]
    assert [s.options["objective"] for s in see.mixture.sources] == ["boxes"]
    assert [s.name for s in act.mixture.sources] == ["robot"]
    assert set(act.trains) == {"expert", "action_io"}
    for given in ({"start": "parent"}, {"grounding": 0}, {"see": 0}):
        assert list(recipe(**given).stages) == ["train", "act"]
    assert list(recipe(act=0, see=0).stages) == ["train"]
    assert [stage.start for stage in recipe(start="parent").stages.values()] == ["parent", None]


def test_a_start_brings_its_processor() -> None:
    run = find_recipe("tabletop-nano")(start="parent")
    assert (run.processor, run.processor_from) == ({}, ProcessorSource(checkpoint="parent"))
    assert run.stages["train"].start == "parent"


def test_the_list_explains_each_recipe() -> None:
    listed = list_recipes()
    assert listed.keys() == RECIPES.keys()
    assert all(len(text) > 20 for text in listed.values())


def test_a_recipe_in_ones_own_file(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(OWN)
    assert find_recipe(f"{file}:mine")(data="x").stages["a"].mixture.sources[0].path == "x"
    with pytest.raises(ValueError, match="Did you mean 'mine'"):
        find_recipe(f"{file}:mien")
    with pytest.raises(ValueError, match="returned int"):
        find_recipe(f"{file}:wrong")()
    with pytest.raises(ValueError, match="It takes"):
        find_recipe(f"{file}:mine")(start="checkpoint")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        find_recipe(f"{tmp_path}/other.py:mine")


def test_an_unknown_recipe_answers_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'tabletop-nano'"):
        find_recipe("table-nano")


def test_conversations_and_questions_join_the_mixture_when_asked_for() -> None:
    recipe = find_recipe("tabletop-nano")
    asked = recipe(data="a", scenes="b", questions=0.3).stages["train"].mixture.sources[-1]
    assert (asked.path, asked.weight, asked.options["objective"]) == ("b", 0.3, "questions")
    (talk,) = conversation_sources("talk.json")
    assert (talk.path, talk.options) == ("talk.json", {"objective": "conversation"})
    assert conversation_sources(None) == ()

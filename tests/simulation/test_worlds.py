"""Worlds by name, by file and as objects; what a world without some part refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.simulation import fake_world
from visuomotor.simulation.collect import CollectPlan, collect
from visuomotor.simulation.interface import WorldSpec, load_world, world_for_workers

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", ["tabletop", "metaworld"])
def test_the_worlds_of_the_library(name: str) -> None:
    world = load_world(name)
    assert world.name == name
    assert world.splits[0] == "train"
    assert world.demonstrator is not None
    assert world.sentences is not None
    assert sorted(world.sentences())
    scenario = world.scenarios("train", 1, 0)[0]
    assert scenario.environment == name


def test_a_world_is_found_by_name_by_file_and_as_itself() -> None:
    reference = f"{HERE}/fake_world.py:WORLD"
    assert load_world(reference) is fake_world.WORLD  # the file is imported already
    assert load_world(str(HERE / "fake_world.py")) is fake_world.WORLD
    assert load_world(fake_world.WORLD) is fake_world.WORLD
    assert world_for_workers(reference) == reference
    assert world_for_workers("tabletop") is load_world("tabletop")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tabeltop", "Unknown world 'tabeltop'. Did you mean 'tabletop'.*FILE.py:NAME"),
        (f"{HERE}/fake_world.py:WORD", "has no 'WORD'. Did you mean 'WORLD'"),
        (f"{HERE}/fake_world.py:make", "is of type function, but a world must be of type WorldSpec"),
        (f"{HERE}/fake_world.py:FakeEnvironment", "is the class FakeEnvironment, but a world must be"),
    ],
)
def test_an_unknown_world_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_world(name)


@pytest.mark.parametrize(
    ("lacks", "scenes", "message"),
    [
        (("demonstrator",), 0, "'fake' has no demonstrator, so no demonstrations can be collected"),
        (("shuffle",), 10, "'fake' has no shuffle, so no pictures of scenes"),
        (("shuffle", "annotator"), 10, "'fake' has no shuffle and no annotator, so no pictures"),
    ],
)
def test_what_a_world_lacks_is_refused_before_anything_is_written(
    tmp_path: Path, lacks: tuple[str, ...], scenes: int, message: str
) -> None:
    parts: dict[str, Any] = dict.fromkeys(lacks)
    world: WorldSpec = replace(fake_world.WORLD, **parts)
    with pytest.raises(ValueError, match=message):
        collect(CollectPlan(environment="fake", out=tmp_path / "set", scenes=scenes), world=world)
    assert not list(tmp_path.iterdir())


def test_an_object_needs_no_name(tmp_path: Path) -> None:
    plan = CollectPlan(environment="fake", out=tmp_path / "set", episodes=1, workers=1)
    assert collect(plan, world=replace(fake_world.WORLD, annotator=None)).episodes == 1

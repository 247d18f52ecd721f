from pathlib import Path

import pytest

from visuomotor.cli.main import main
from visuomotor.recipes import find_recipe, override
from visuomotor.studies import STUDIES
from visuomotor.studies.dm0_mechanisms import DM0_MECHANISMS


def test_each_arm_differs_from_the_one_before_it_in_what_it_says() -> None:
    settings = {}
    robot, asked = {"robot"}, {"robot", "boxes", "grounding"}
    for arm in DM0_MECHANISMS.arms:
        run = override(
            find_recipe("tabletop-nano")(**DM0_MECHANISMS.arguments, start="base", **arm.arguments), arm.fields
        )
        stage = run.stages["train"]
        levels = {level: p for level, p in run.processor.get("levels", {}).items() if p}
        sources = {source.name for source in stage.mixture.sources}
        settings[arm.name] = (levels, run.config.gradient_decoupling, sources, arm.think)
        assert list(run.stages) == ["train", "act"]
        assert {source.name for source in run.stages["act"].mixture.sources} == robot
    levels, thought = {"subtask": 0.7, "box": 0.9, "action": 0.5}, ("subtask", "box")
    assert settings == {
        "flow": ({}, False, robot, ()),
        "tokens": ({"action": 0.5}, False, robot, ()),
        "decoupled": ({"action": 0.5}, True, robot, ()),
        "scaffold": (levels, True, robot, ()),
        "scaffold-text-first": ({}, True, asked, thought),
        "questions": (levels, True, asked, ()),
        "questions-text-first": ({}, True, asked, thought),
    }


def test_the_base_learns_to_see_and_knows_the_robot() -> None:
    base = find_recipe("tabletop-nano")(scenes="scenes", minutes=10, **DM0_MECHANISMS.base)
    assert list(base.stages) == ["see", "train"]
    assert {source.name for source in base.stages["see"].mixture.sources} == {"boxes"}
    assert "robot" in {source.name for source in base.stages["train"].mixture.sources}
    assert base.stages["train"].minutes == pytest.approx(0.2)


def test_an_unknown_study_answers_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "dm0-mechanism", "--data", str(tmp_path)]) == 1
    assert "Did you mean 'dm0-mechanisms'?" in capsys.readouterr().err
    assert main(["study", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in STUDIES)

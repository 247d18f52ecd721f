"""The wrong instruction must be possible in the scene, or refusing it would look like listening."""

import re

import pytest

from visuomotor.simulation.interface import load_world, make_environment, make_scenarios


@pytest.mark.parametrize("distractors", [2, 4])
def test_the_other_sentence_names_objects_that_stand_in_the_tabletop_scene(distractors: int) -> None:
    other_instruction = load_world("tabletop").other_instruction
    assert other_instruction is not None
    environment = make_environment("tabletop", distractors=distractors)
    for scenario in make_scenarios("tabletop", "train", 15, 100_000):
        environment.reset(options={"scenario": scenario})
        standing = {item.name for item in environment.scene.objects}  # type: ignore[attr-defined]
        sentence = other_instruction(scenario, distractors=distractors)
        assert sentence == other_instruction(scenario, distractors=distractors)
        assert sentence != scenario.instruction
        named = set(re.findall(r"(?:red|green|blue|yellow) (?:block|disc|cup)", sentence))
        assert len(named) == 1
        assert named <= standing, (sentence, standing)
    environment.close()

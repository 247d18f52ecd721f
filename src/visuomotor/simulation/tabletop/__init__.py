"""Tabletop: a small arm, coloured objects, bowls, a drawer and a button, asked for in compositional language."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from visuomotor.contract import Scenario
from visuomotor.simulation.interface import WorldSpec
from visuomotor.simulation.tabletop import combinations
from visuomotor.simulation.tabletop.combinations import scenarios, splits
from visuomotor.simulation.tabletop.environment import EMBODIMENT, TabletopEnvironment
from visuomotor.simulation.tabletop.grammar import corpus
from visuomotor.simulation.tabletop.taskspec import TaskSpec, get_vocabulary
from visuomotor.simulation.tabletop.variation import Variation, sample_layout, stream

__all__ = ["EMBODIMENT", "WORLD", "TabletopEnvironment", "other_instruction", "scenarios", "splits"]


def other_instruction(scenario: Scenario, distractors: int = Variation.distractors) -> str:
    """The sentence of another task that is possible in the scenario's scene, the same for the same scenario.

    `distractors` is the environment's option of that name: it decides which objects stand there.
    """
    spec, vocabulary = TaskSpec.parse(scenario.task), str(scenario.options.get("vocabulary", "small"))
    variation = Variation(distractors=int(scenario.options.get("distractors", distractors)))
    layout = sample_layout(spec, vocabulary, variation, stream(scenario.seed, "layout"))
    objects = [(o.colour, o.shape) for o in layout.objects]
    return combinations.other_instruction(spec, objects, np.random.default_rng(scenario.seed), vocabulary)[1]


def sentences(vocabulary: str = "small") -> Iterable[str]:
    """Every instruction of the vocabulary."""
    return corpus(get_vocabulary(vocabulary))


WORLD = WorldSpec(
    name="tabletop",
    make=TabletopEnvironment,
    scenarios=scenarios,
    robot=EMBODIMENT,
    splits=splits(),
    sentences=sentences,
    demonstrator=TabletopEnvironment.expert,
    annotator=TabletopEnvironment.annotate,
    shuffle=TabletopEnvironment.shuffle,
    other_instruction=other_instruction,
    evaluation={
        "splits": ("train", "heldout_combination"),
        "execute": 4,
        "options": {"vocabulary": "small"},
    },
    checkpoint=Path(__file__).parents[2] / "checkpoints" / "tabletop-nano",
    demo={
        "out": "runs/demo",
        "recipe": "tabletop-nano",
        "scenes": 4000,
        "minutes": 9,
        "variation": {"anywhere": 0.4},
        "splits": ("train", "heldout_combination"),
    },
    full_demo={
        "out": "runs/demo-full",
        "demonstrations": 1500,
        "scenes": 10000,
        "minutes": 40,
        "episodes": 200,
    },
)

"""Tabletop: a small arm, coloured objects, bowls, a drawer and a button, asked for in compositional language."""

from typing import Any

import numpy as np

from visuomotor.contract import Scenario
from visuomotor.simulation.tabletop import combinations
from visuomotor.simulation.tabletop.combinations import scenarios, splits
from visuomotor.simulation.tabletop.environment import EMBODIMENT, TabletopEnvironment
from visuomotor.simulation.tabletop.taskspec import TaskSpec
from visuomotor.simulation.tabletop.variation import Variation, sample_layout, stream

__all__ = ["EMBODIMENT", "TabletopEnvironment", "make", "other_instruction", "scenarios", "splits"]


def make(
    *, render_quality: str = "fast", cameras_px: int = 128, vocabulary: str = "small", **variation: Any
) -> TabletopEnvironment:
    """A tabletop environment; `variation` are fields of visuomotor.simulation.tabletop.variation.Variation."""
    return TabletopEnvironment(render_quality=render_quality, cameras_px=cameras_px, vocabulary=vocabulary, **variation)


def other_instruction(scenario: Scenario, distractors: int = Variation.distractors) -> str:
    """The sentence of another task that is possible in the scenario's scene, the same for the same scenario.

    `distractors` is the environment's option of that name: it decides which objects stand there.
    """
    spec, vocabulary = TaskSpec.parse(scenario.task), str(scenario.options.get("vocabulary", "small"))
    variation = Variation(distractors=int(scenario.options.get("distractors", distractors)))
    layout = sample_layout(spec, vocabulary, variation, stream(scenario.seed, "layout"))
    objects = [(o.colour, o.shape) for o in layout.objects]
    return combinations.other_instruction(spec, objects, np.random.default_rng(scenario.seed), vocabulary)[1]

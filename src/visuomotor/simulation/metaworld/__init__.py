"""Meta-World as a world of this library.

Tasks are the benchmark's 50 names without their version ("drawer-open"), and ten pair tasks ("pair:drawer-open") that
start with their joint midway, so that only the words tell what to do.
"""

from collections.abc import Sequence

import numpy as np

from visuomotor.contract import Scenario
from visuomotor.simulation.interface import WorldSpec
from visuomotor.simulation.metaworld.environment import MetaWorldEnvironment, sawyer_embodiment
from visuomotor.simulation.metaworld.pairs import PREFIX, pair_of
from visuomotor.simulation.metaworld.sentences import SENTENCES, opposite
from visuomotor.simulation.metaworld.tasks import resolve_tasks

__all__ = ["WORLD", "other_instruction", "scenarios", "splits"]

_SEEDS = 2**20  # starts per seed; seeds of two calls with different `seed` never meet


def splits() -> tuple[str, ...]:
    """`train`, and `heldout_paraphrase`: the same starts in words that the training split never uses."""
    return ("train", "heldout_paraphrase")


def scenarios(split: str, count: int, seed: int, tasks: str | Sequence[str] | None = None) -> list[Scenario]:
    """`count` scenarios, round robin over the tasks. Different seeds never share a start; a split shares its seed's."""
    if split not in splits():
        raise ValueError(f"Unknown split {split!r} of metaworld; choose one of {', '.join(splits())}.")
    if not 0 <= count <= _SEEDS or seed < 0:
        raise ValueError(f"count must be in 0..{_SEEDS} and seed not negative, not {count} and {seed}.")
    names, draw = resolve_tasks(tasks), np.random.default_rng(seed)
    found = []
    for index in range(count):
        task = names[index % len(names)]
        sentences = SENTENCES[task.removeprefix(PREFIX)]
        words = sentences.train if split == "train" else sentences.heldout
        instruction = words[int(draw.integers(len(words)))]
        start = seed * _SEEDS + index
        found.append(Scenario(environment="metaworld", task=task, seed=start, split=split, instruction=instruction))
    return found


def other_instruction(scenario: Scenario) -> str:
    """A sentence for another task: the opposite one where there is one, else any, the same for the same scenario."""
    task = resolve_tasks(scenario.task)[0]
    pair, name = pair_of(task), task.removeprefix(PREFIX)
    other = pair.other(name) if pair is not None else opposite(name)
    draw = np.random.default_rng(scenario.seed)
    if other is None:
        others = [candidate for candidate in SENTENCES if candidate != name]
        other = others[int(draw.integers(len(others)))]
    words = SENTENCES[other]
    choices = words.heldout if scenario.split == "heldout_paraphrase" else words.train
    return choices[int(draw.integers(len(choices)))]


def sentences() -> list[str]:
    """The training sentences of all tasks."""
    return [text for task in SENTENCES.values() for text in task.train]


WORLD = WorldSpec(
    name="metaworld",
    make=MetaWorldEnvironment,
    scenarios=scenarios,
    robot=sawyer_embodiment(),
    splits=splits(),
    sentences=sentences,
    demonstrator=MetaWorldEnvironment.expert,
    annotator=MetaWorldEnvironment.annotate,
    other_instruction=other_instruction,
    evaluation={"options": {"tasks": "grasps"}},
    demo={"recipe": "metaworld-pairs"},
)

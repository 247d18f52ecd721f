"""The simulated worlds that nano policies are trained for: their robots, rollouts and words."""

from pathlib import Path
from typing import Any, Literal

from visuomotor.contract import EvalPlan
from visuomotor.data.sources import open_source
from visuomotor.simulation.metaworld.sentences import SENTENCES
from visuomotor.simulation.metaworld.tasks import resolve_tasks
from visuomotor.simulation.tabletop.language import corpus, get_vocabulary, scenarios

__all__ = ["WIDTHS", "World", "evaluation", "require_robot_of", "sentences"]

World = Literal["tabletop", "metaworld"]
WIDTHS: dict[World, int] = {"tabletop": 7, "metaworld": 4}  # numbers of an action; as many of a state
ROBOTS: dict[World, str] = {"tabletop": "tabletop_arm", "metaworld": "metaworld_sawyer"}


def evaluation(
    world: World,
    *,
    think: tuple[str, ...] = (),
    tasks: str | None = None,
    distractors: int | None = None,
    vocabulary: str = "small",
) -> EvalPlan:
    """Rollouts in `world`.

    tasks: names with commas between them, None for all of the tabletop's vocabulary, or for Meta-World's "grasps";
    distractors: things on the table beside those that a task names, None for the tabletop's own number.

    Raises:
        ValueError: another world, or a task or an option that it lacks.
    """
    if world == "metaworld":
        resolve_tasks(tasks or "grasps")
        if distractors is not None:
            raise ValueError(f"distractors is {distractors}, but Meta-World's scenes are as they are; leave it out.")
        options: dict[str, Any] = {"tasks": tasks or "grasps"}
        return EvalPlan(environment=world, splits=("train",), execute=8, think=think, options=options)
    if world != "tabletop":
        raise ValueError(f"world is {world!r}; choose 'tabletop' or 'metaworld'.")
    options = {"vocabulary": vocabulary}
    if tasks:
        scenarios("train", 1, 0, vocabulary, tasks=tasks)
        options["tasks"] = tasks
    if distractors is not None:
        options["distractors"] = distractors
    splits = ("train", "heldout_combination")
    return EvalPlan(environment=world, splits=splits, execute=4, think=think, options=options)


def sentences(world: World, vocabulary: str = "small") -> tuple[str, ...]:
    """What a tokenizer for `world` is trained on."""
    if world == "metaworld":
        return tuple(sorted({text for own in SENTENCES.values() for text in own.train}))
    return tuple(sorted(set(corpus(get_vocabulary(vocabulary)))))


def require_robot_of(world: World, data: str) -> None:
    """ValueError if `data`, where it is there already, was recorded in the other world."""
    if not (Path(data) / "meta").is_dir():
        return
    robot = open_source(data).require_embodiment().name
    for other, name in ROBOTS.items():
        if other != world and name == robot:
            raise ValueError(f"{data} was recorded with the {name} of {other}, but the policy is for {world}.")

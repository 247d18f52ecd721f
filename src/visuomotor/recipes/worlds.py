"""The simulated world that a nano policy is trained for: its rollouts and words."""

from pathlib import Path
from typing import Any

from visuomotor.contract import EvalPlan
from visuomotor.data.lerobot import Dataset
from visuomotor.simulation.interface import WORLDS, load_world, make_scenarios
from visuomotor.simulation.options import named_options

__all__ = ["evaluation", "require_robot_of", "sentences"]


def evaluation(world: str, *, think: tuple[str, ...] = (), **options: Any) -> EvalPlan:
    """Rollouts in `world` (a name or FILE.py:NAME), with its defaults. Options that are None are the world's own.

    Raises:
        ValueError: an unknown world, or a task or an option that it lacks.
    """
    fields = dict(load_world(world).evaluation)
    given = {name: value for name, value in options.items() if value is not None}
    fields["options"] = {**fields.get("options", {}), **given}
    make_scenarios(world, "train", 1, 0, **fields["options"])  # refuses what the world lacks
    return EvalPlan(environment=world, think=think, **fields)


def sentences(world: str, vocabulary: str | None = None) -> tuple[str, ...]:
    """The corpus of a tokenizer for `world`."""
    texts = load_world(world).sentences
    if texts is None:
        return ()
    given = {} if vocabulary is None else {"vocabulary": vocabulary}
    return tuple(sorted(set(texts(**named_options(texts, given)))))


def require_robot_of(world: str, data: str) -> None:
    """ValueError if `data`, where it is there already, was recorded in another of the library's worlds."""
    if not (Path(data) / "meta").is_dir():
        return
    robot = Dataset(data).require_embodiment().name
    for other in WORLDS:
        if robot == load_world(other).robot.name != load_world(world).robot.name:
            raise ValueError(f"{data} was recorded with the {robot} of {other}, but the policy is for {world}.")

"""Conditions of an evaluation: the clean splits, and the controls that tell whether a policy sees and listens."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from visuomotor.contract import EvalPlan, Scenario
from visuomotor.evaluation.results import task_name
from visuomotor.simulation.interface import WorldSpec, load_world, make_scenarios
from visuomotor.simulation.options import named_options

CONTROLS = ("wrong_instruction", "black_cameras", "heldout_paraphrase", "heldout_combination")
KNOWN_CONTROLS = (*CONTROLS, "no_instruction")
FIRST_EVALUATION_SEED = 100_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """One rollout to do. Success is always that of the scenario's own task.

    `instruction` replaces what the policy reads; `borrow` replaces it by the sentence of another scenario.
    """

    condition: str
    index: int
    scenario: Scenario
    control: bool = False
    instruction: str | None = None
    borrow: Scenario | None = None
    black: bool = False

    @property
    def key(self) -> tuple[str, int]:
        return self.condition, self.index


def plan_jobs(plan: EvalPlan, controls: Sequence[str] = CONTROLS, world: WorldSpec | None = None) -> list[Job]:
    """All rollouts of a plan: `plan.episodes` of each split, then `plan.control_episodes` of each control.

    `world` is the one that `plan.environment` names, by default.

    Wrong instruction, no instruction and black cameras repeat scenarios of the first split, so they are paired with
    it. A held-out split runs as a control only where the world has it and the plan does not name it.
    """
    if plan.seed < FIRST_EVALUATION_SEED:
        raise ValueError(
            f"The evaluation seed is {plan.seed}, but seeds below {FIRST_EVALUATION_SEED} belong to training data; "
            f"use {FIRST_EVALUATION_SEED} or more."
        )
    unknown = [name for name in controls if name not in KNOWN_CONTROLS]
    if unknown:
        raise ValueError(f"Unknown controls {unknown}; choose from {', '.join(KNOWN_CONTROLS)}.")
    if not plan.splits or plan.episodes < 1:
        raise ValueError(f"Nothing to evaluate: splits {list(plan.splits)}, {plan.episodes} episodes.")
    world = load_world(world or plan.environment)
    missing = [split for split in plan.splits if split not in world.splits]
    if missing:
        raise ValueError(f"{plan.environment} has no split {missing}; it has {', '.join(world.splits)}.")
    jobs: list[Job] = []
    for split in plan.splits:
        found = _scenarios(plan, world, split, plan.episodes)
        jobs += [Job(condition=split, index=i, scenario=s) for i, s in enumerate(found)]
    clean = [job.scenario for job in jobs if job.condition == plan.splits[0]]
    for name in controls if plan.control_episodes else ():
        jobs += _control_jobs(name, plan, world, clean)
    return jobs


def require_disjoint(jobs: Iterable[Job], training: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError when an evaluation scenario starts from a seed that the training data was collected with.

    `training`: the `scenario` entries of the data set's episode infos.
    """
    seen = {(s["environment"], int(s["seed"])) for s in training}
    shared = sorted({job.scenario.seed for job in jobs if (job.scenario.environment, job.scenario.seed) in seen})
    if shared:
        raise ValueError(
            f"{len(shared)} evaluation scenarios start from seeds of the training data (the first is {shared[0]}): "
            "their success would not tell how the policy generalises. Choose another evaluation seed."
        )


def spread(scenarios: Sequence[Scenario], count: int) -> list[Scenario]:
    """The first `count` scenarios, taken in turn over the tasks, so that a small control is balanced too."""
    by_task: dict[str, list[Scenario]] = defaultdict(list)
    for scenario in scenarios:
        by_task[task_name(scenario.task, scenario.options)].append(scenario)
    turns = [s for turn in zip_longest(*by_task.values()) for s in turn if s is not None]
    return turns[:count]


def _scenarios(plan: EvalPlan, world: WorldSpec, split: str, count: int) -> list[Scenario]:
    return make_scenarios(world, split, count, plan.seed, **plan.options)


def _control_jobs(name: str, plan: EvalPlan, world: WorldSpec, clean: Sequence[Scenario]) -> list[Job]:
    if name.startswith("heldout_"):
        if name in plan.splits or name not in world.splits:
            return []
        found = _scenarios(plan, world, name, plan.control_episodes)
        return [Job(condition=name, index=i, scenario=s, control=True) for i, s in enumerate(found)]
    jobs = []
    for index, scenario in enumerate(spread(clean, plan.control_episodes)):
        other: dict[str, Any] = {}
        if name == "wrong_instruction":
            other = _other_sentence(world, scenario, clean, plan.options)
            if not other:
                return []  # a world of one task has no other sentence
        elif name == "no_instruction":
            other = {"instruction": ""}
        job = Job(
            condition=name, index=index, scenario=scenario, control=True, black=name == "black_cameras", **other
        )  # fmt: skip
        jobs.append(job)
    return jobs


def _other_sentence(
    world: WorldSpec, scenario: Scenario, clean: Sequence[Scenario], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The sentence of another task: one possible in the same scene where the world knows it, else any other task's."""
    if (choose := world.other_instruction) is not None:
        return {"instruction": choose(scenario, **named_options(choose, options))}
    others = [s for s in clean if s.task != scenario.task]
    return {"borrow": others[scenario.seed % len(others)]} if others else {}

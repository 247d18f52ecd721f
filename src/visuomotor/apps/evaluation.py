"""Evaluate a checkpoint: the policy as the plan wants it, on starts that its training data does not hold."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visuomotor.contract import Embodiment, EvalPlan
from visuomotor.data.lerobot import Dataset
from visuomotor.evaluation.results import Results
from visuomotor.evaluation.rollout import evaluate
from visuomotor.locks import FolderLock
from visuomotor.plugins import is_reference
from visuomotor.policy import Policy, load_policy
from visuomotor.serving.remote import open_policy
from visuomotor.session import PolicyLike
from visuomotor.simulation.interface import WorldSpec, make_environment

logger = logging.getLogger(__name__)


def evaluate_checkpoint(
    checkpoint: Path,
    plan: EvalPlan,
    out: Path,
    *,
    data: Sequence[Path] = (),
    world: WorldSpec | None = None,
    break_lock: bool = False,
    **options: Any,
) -> Results:
    """Load and roll out a checkpoint, or your own policy as FILE.py:NAME.

    A checkpoint of several robots drives the world's.

    `data`: collected data sets whose starts must not occur; `world`: see `evaluate`, which gets the
    other `options`.

    Raises:
        ValueError: held-out wording is wanted of a policy that was trained without templates.
        FolderInUse: another process or thread writes into `out`; see `FolderLock`, also for `break_lock`.
    """
    with FolderLock(out, break_lock=break_lock):  # before a checkpoint is loaded, which takes long
        return _evaluate(checkpoint, plan, out, data, world, **options)


def _evaluate(
    checkpoint: Path, plan: EvalPlan, out: Path, data: Sequence[Path], world: WorldSpec | None, **options: Any
) -> Results:
    policy = policy_for(checkpoint, plan, world)
    options |= {"world": world, "origin": checkpoint, "training_scenarios": training_scenarios(data)}
    if not isinstance(policy, Policy):
        return evaluate(policy, plan, out, **options)
    plan = replace(plan, think=policy.think, actions_from=policy.actions_from)
    results = evaluate(policy, plan, out, **options)
    if policy.malformed:
        logger.warning("%d lines of action tokens were malformed; the flow acted in their place.", policy.malformed)
    return results


def policy_for(checkpoint: Path, plan: EvalPlan, world: WorldSpec | None = None) -> PolicyLike:
    """The policy in a checkpoint's folder, or your own in FILE.py:NAME, with the settings of the plan."""
    chosen = dict(plan.policy)
    if plan.actions_from is not None:
        chosen["actions_from"] = plan.actions_from
    if is_reference(str(checkpoint)):
        if plan.wording == "heldout":
            raise ValueError(f"{checkpoint} has no templates of this library, so it has no held-out wording.")
        return open_policy(str(checkpoint), robot_of(plan, world), think=plan.think, **chosen)
    policy = load_policy(checkpoint, think=plan.think, **chosen)
    if len(policy.processor.embodiments) > 1:
        policy = load_policy(checkpoint, think=plan.think, embodiment=robot_of(plan, world), **chosen)
    if plan.wording == "heldout":
        if policy.processor.config.templates == "none":
            raise ValueError(f"{checkpoint} was trained without templates, so it has no held-out wording.")
        policy.processor.config = replace(policy.processor.config, templates="heldout")
    return policy


def robot_of(plan: EvalPlan, world: WorldSpec | None = None) -> Embodiment:
    """The robot of the plan's world with the plan's options."""
    environment = make_environment(world or plan.environment, **plan.options)
    try:
        return environment.embodiment
    finally:
        environment.close()


def training_scenarios(data: Sequence[Path]) -> list[dict[str, Any]]:
    """The scenarios that data sets were collected from, as their episode infos tell."""
    infos = [dataset.info(e) for dataset in map(Dataset, data) for e in range(dataset.num_episodes)]
    return [info["scenario"] for info in infos if "scenario" in info]

"""Evaluate a checkpoint: the policy as the plan wants it, on starts that its training data does not hold."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visuomotor.contract import Embodiment, EvalPlan
from visuomotor.data.sources import open_source
from visuomotor.evaluation.results import Results
from visuomotor.evaluation.rollout import evaluate
from visuomotor.locks import FolderLock
from visuomotor.policy import load_policy
from visuomotor.simulation.interface import load_world, make_environment
from visuomotor.simulation.options import split_options

logger = logging.getLogger(__name__)


def evaluate_checkpoint(
    checkpoint: Path,
    plan: EvalPlan,
    out: Path,
    *,
    data: Sequence[Path] = (),
    break_lock: bool = False,
    **options: Any,
) -> Results:
    """Load and roll out. A checkpoint of several robots drives the world's.

    `data`: collected data sets whose starts must not occur; `options` go to `evaluate`.

    Raises:
        ValueError: held-out wording is wanted of a policy that was trained without templates.
        FolderInUse: another process or thread writes into `out`; see `FolderLock`, also for `break_lock`.
    """
    with FolderLock(out, break_lock=break_lock):  # before a checkpoint is loaded, which takes long
        return _evaluate(checkpoint, plan, out, data, **options)


def _evaluate(checkpoint: Path, plan: EvalPlan, out: Path, data: Sequence[Path], **options: Any) -> Results:
    chosen = dict(plan.policy)
    if plan.actions_from is not None:
        chosen["actions_from"] = plan.actions_from
    policy = load_policy(checkpoint, think=plan.think, **chosen)
    if len(policy.processor.embodiments) > 1:
        policy = load_policy(checkpoint, think=plan.think, embodiment=robot_of(plan), **chosen)
    if plan.wording == "heldout":
        if policy.processor.config.templates == "none":
            raise ValueError(f"{checkpoint} was trained without templates, so it has no held-out wording.")
        policy.processor.config = replace(policy.processor.config, templates="heldout")
    plan = replace(plan, think=policy.think, actions_from=policy.actions_from)
    results = evaluate(policy, plan, out, training_scenarios=training_scenarios(data), **options)
    if policy.malformed:
        logger.warning("%d lines of action tokens were malformed; the flow acted in their place.", policy.malformed)
    return results


def robot_of(plan: EvalPlan) -> Embodiment:
    """Whose observations the plan's world gives."""
    options, _ = split_options(load_world(plan.environment), plan.options)
    environment = make_environment(plan.environment, **options)
    try:
        return environment.embodiment
    finally:
        environment.close()


def training_scenarios(data: Sequence[Path]) -> list[dict[str, Any]]:
    """The scenarios that data sets were collected from, as their episode infos tell."""
    infos = [dataset.info(e) for dataset in map(open_source, data) for e in range(dataset.num_episodes)]
    return [info["scenario"] for info in infos if "scenario" in info]

"""`visuomotor eval CHECKPOINT`: roll a checkpoint out in a simulator."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from visuomotor.cli.console import console, parse, progress_bar, table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Roll a checkpoint out in a simulator: success with 95 % Wilson intervals, controls, videos."""

    checkpoint: Annotated[Path, tyro.conf.Positional]
    environment: str = "tabletop"
    out: Path = Path("runs/eval")
    episodes: int = 100
    """Episodes per split."""
    splits: tuple[str, ...] = ("train",)
    control_episodes: int = 25
    """Episodes per control (instruction of another task, black cameras, ...); 0 leaves the controls out."""
    max_steps: int | None = None
    execute: int = 8
    """Actions of a chunk that are executed before the policy looks again."""
    seed: int = 100_000
    workers: int = 2
    option: dict[str, str] = field(default_factory=dict)
    """Options of the world, e.g. --option vocabulary full."""
    resume: bool = False
    overwrite: bool = False


def run(arguments: list[str]) -> int:
    options = parse("eval", Options, arguments)
    from visuomotor.cli.values import typed
    from visuomotor.contract import EvalPlan
    from visuomotor.evaluation.rollout import evaluate
    from visuomotor.policy import load_policy

    plan = EvalPlan(
        environment=options.environment,
        episodes=options.episodes,
        splits=options.splits,
        control_episodes=options.control_episodes,
        max_steps=options.max_steps,
        execute=options.execute,
        seed=options.seed,
        options={key: typed(value) for key, value in options.option.items()},
    )
    policy = load_policy(options.checkpoint)
    with progress_bar(f"evaluating in {options.environment}") as update:
        results = evaluate(
            policy,
            plan,
            options.out,
            workers=options.workers,
            resume=options.resume,
            overwrite=options.overwrite,
            progress=lambda state: update(state.done, state.total, f"{state.successes} succeeded"),
        )
    columns, rows = results.table()
    table("success", columns, rows)
    console.print(f"results: {options.out / 'results.json'}")
    return 0

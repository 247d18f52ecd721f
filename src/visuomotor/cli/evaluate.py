"""`visuomotor eval CHECKPOINT`: roll a checkpoint out in a simulator."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from visuomotor.cli.console import Number, parse, progress_bar, say, table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Roll a checkpoint out in a simulator: success with 95 % Wilson intervals, controls, videos."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint's folder, such as runs/train/checkpoints/step-000500, or a training's, whose newest it takes; or
    your own policy as FILE.py:NAME."""
    environment: str = "tabletop"
    """The world: tabletop, metaworld, or your own as FILE.py:NAME."""
    out: Path = Path("runs/eval")
    """Folder for results and videos."""
    episodes: int = 100
    """Episodes per split."""
    splits: tuple[str, ...] = ("train",)
    """Which scenarios of the world: train, heldout_combination, ..."""
    control_episodes: int = 25
    """Episodes per control (instruction of another task, black cameras, ...); 0 leaves the controls out."""
    max_steps: Number = None
    """Control steps after which an episode has failed (default: the world's own limit)."""
    execute: int = 8
    """Actions of a chunk that are executed before the policy looks again (ensembles look at every step)."""
    executor: Literal[
        "receding_horizon", "temporal_ensemble", "adaptive_ensemble", "asynchronous", "asynchronous_ensemble",
        "rtc", "rtc_identity", "rtc_prefix",
    ] = "receding_horizon"  # fmt: skip
    """What turns chunks into actions: docs/execution.md says which to take."""
    latency_ms: float = 0.0
    """Milliseconds of the world's clock after which a chunk is there, whatever the policy takes here."""
    safety: Literal["clamp", "reject", "shadow"] = "clamp"
    """What the safety filter does with commands beyond the robot's limits; shadow only counts them."""
    think: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[STR ...]")] = None
    """Levels that the policy writes before it acts, e.g. subtask box (default: what it was trained to write)."""
    actions_from: Literal["flow", "tokens"] | None = None
    """Chunks from the flow, or the action tokens that the policy writes (default: what the checkpoint says)."""
    policy: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE")] = field(default_factory=dict)
    """Other settings of the policy, e.g. --policy think_every 2 think_seconds 0.1 num_samples 8, and of its model, e.g.
    routing soft."""
    wording: Literal["canonical", "heldout"] = "canonical"
    """How the policy is told, if it was trained with templates: heldout takes those that training never used."""
    data: tuple[Path, ...] = ()
    """Data sets that it was trained on: none of their starts may occur."""
    seed: int = 100_000
    """Of the scenarios; seeds below 100000 belong to training data."""
    workers: int = 2
    """Simulator processes; the results do not depend on their number."""
    option: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE")] = field(default_factory=dict)
    """Options of the world, e.g. --option vocabulary full."""
    stages: bool = False
    """Also print how many episodes came how far, stage by stage of each task."""
    resume: bool = False
    """Continue an interrupted evaluation of the same checkpoint and plan."""
    overwrite: bool = False
    """Replace the evaluation that lies in --out."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


def run(arguments: list[str]) -> int:
    options = parse("eval", Options, arguments)
    from visuomotor.apps.evaluation import evaluate_checkpoint
    from visuomotor.cli.values import newest, typed
    from visuomotor.contract import EvalPlan
    from visuomotor.evaluation.results import RECORDS_FILE, read_records
    from visuomotor.evaluation.stages import by_stage, stage_table

    plan = EvalPlan(
        environment=options.environment,
        episodes=options.episodes,
        splits=options.splits,
        control_episodes=options.control_episodes,
        max_steps=options.max_steps,
        execute=options.execute,
        executor=options.executor,
        latency=options.latency_ms / 1000,
        safety=options.safety,
        think=options.think,
        actions_from=options.actions_from,
        policy={key: typed(value) for key, value in options.policy.items()},
        wording=options.wording,
        seed=options.seed,
        options={key: typed(value) for key, value in options.option.items()},
    )
    with progress_bar(f"evaluating in {options.environment}") as update:
        results = evaluate_checkpoint(
            newest(options.checkpoint),
            plan,
            options.out,
            data=options.data,
            workers=options.workers,
            resume=options.resume,
            overwrite=options.overwrite,
            break_lock=options.break_lock,
            progress=lambda state: update(state.done, state.total, f"{state.successes} succeeded"),
        )
    columns, rows = results.table()
    table("success", columns, rows)
    if options.stages:
        records = read_records(options.out / RECORDS_FILE)
        for condition in results.conditions:
            reached = by_stage(r for r in records if r.condition == condition.name)
            if reached:
                table(f"how far episodes came: {condition.name}", *stage_table(reached))
            else:
                say(f"{condition.name}: the tasks of {options.environment} have no stages.")
    say(f"results: {options.out / 'results.json'}")
    return 0

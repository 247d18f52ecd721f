"""`visuomotor study NAME`: train and roll out the arms of a study, and say what can be told apart."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from visuomotor.cli.console import Number, PathOrNone, parse, progress_bar, say, table
from visuomotor.cli.values import newest
from visuomotor.locks import FolderLock
from visuomotor.plugins import is_reference, load
from visuomotor.spelling import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Options:
    """Answer a question by training arms that differ in one thing, for equal time, on the same data, and rolling them
    out on the same starts. What is done already is reused. `visuomotor study list` shows the studies; other arguments
    are its recipe's, or set fields of every arm's run, as in `visuomotor train`."""

    study: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The study, or your own as FILE.py:NAME."""
    data: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Demonstrations to train on."""
    scenes: PathOrNone = None
    """Annotated frames for grounding questions (default: the demonstrations' own)."""
    out: Path = Path("runs/study")
    """Folder of the study."""
    minutes: float = 5
    """Training time of each arm and seed."""
    base_minutes: float = 9
    """Training time of the model that all arms start from."""
    seeds: int = 2
    """Training seeds."""
    episodes: int = 100
    """Episodes that each arm and seed is rolled out for, per split."""
    questions: int = 500
    """Questions that each arm and seed is asked, where the study has any."""
    arms: tuple[str, ...] = ()
    """Some of the study's arms (default: all)."""
    workers: int = 2
    """Simulator processes."""
    overwrite: bool = False
    """Replace arms in --out that were made with other settings, data or code."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Roll a checkpoint out through several executors at several latencies, on the same starts: success, time without
    an action, jerk where one chunk takes over from another. What is done already is reused."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint's folder, such as runs/train/checkpoints/step-000500, or a training's, whose newest it takes; or
    your own policy as FILE.py:NAME."""
    out: Path = Path("runs/execution")
    """Folder of the study."""
    executors: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME ...]")] = ()
    """What is compared with receding_horizon (default: all)."""
    latencies: tuple[float, ...] = (0, 50, 100, 200, 300)
    """Milliseconds from an observation to its chunk."""
    environment: str = "tabletop"
    """The world: tabletop, metaworld, or your own as FILE.py:NAME."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[STR ...]")] = ("lift",)
    """Tasks of the world; none given: all."""
    episodes: int = 50
    """Episodes for each executor and latency."""
    execute: int = 4
    """Actions between two looks, for executors that do not look at every step."""
    num_samples: int = 1
    """Chunks of which the policy takes the medoid."""
    max_steps: Number = None
    """Control steps after which an episode has failed (default: the world's own limit)."""
    workers: int = 2
    """Simulator processes."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


def run_execution(arguments: list[str]) -> int:
    from visuomotor.studies import execution

    options = parse("study execution", ExecutionOptions, arguments)
    chosen = {name: getattr(options, name) for name in vars(options) if name not in ("executors", "break_lock")}
    if options.executors:
        chosen["executors"] = tuple(dict.fromkeys((execution.REFERENCE, *options.executors)))
    plan = execution.ExecutionPlan(**{**chosen, "checkpoint": newest(options.checkpoint)})
    with ExitStack() as bars:

        def watch(title: str) -> Callable[[int, int, str], None]:
            bars.close()
            return bars.enter_context(progress_bar(title, transient=True))

        results = execution.run_execution_study(plan, watch, break_lock=options.break_lock)
    table("executors", *execution.table(results))
    say(f"details: {(plan.out / execution.RESULTS_FILE).resolve()}")
    return 0


def run(arguments: list[str]) -> int:
    from visuomotor.cli.train import pairs, recipe_arguments
    from visuomotor.recipes import find_recipe
    from visuomotor.studies import STUDIES, Study, StudyPlan, run_study, summarise
    from visuomotor.studies.report import told, write_report

    if arguments[:1] == ["list"]:
        for name, study in STUDIES.items():
            say(f"  {name:<18} {study.question}")
        say("  execution          Which executor stands how much latency? (needs a checkpoint, trains nothing)")
        return 0
    if arguments[:1] == ["execution"]:
        return run_execution(arguments[1:])
    options, unknown = parse("study", Options, arguments, unknown=True)
    if is_reference(options.study):
        study = load(options.study, Study, "a study")
    elif options.study in STUDIES:
        study = STUDIES[options.study]
    else:
        hint = did_you_mean(options.study, STUDIES)
        raise ValueError(f"there is no study {options.study!r}.{hint} Known: {', '.join(STUDIES)}, or FILE.py:NAME.")
    study = study.only(options.arms) if options.arms else study
    own, fields = recipe_arguments(find_recipe(study.recipe), pairs(unknown))
    plan = StudyPlan(
        out=options.out, data=options.data, scenes=options.scenes, minutes=options.minutes, seeds=options.seeds,
        base_minutes=options.base_minutes, episodes=options.episodes, questions=options.questions,
        workers=options.workers, overwrite=options.overwrite, arguments=own, overrides=fields,
    )  # fmt: skip
    with ExitStack() as bars, FolderLock(plan.out, break_lock=options.break_lock):

        def watch(title: str) -> Callable[[int, int, str], None]:
            bars.close()
            return bars.enter_context(progress_bar(title, transient=True))

        run_study(study, plan, watch, say)
        summaries = summarise(study, plan)
        report = write_report(study, plan, summaries)
    for summary in summaries:
        columns, rows = summary.table()
        table(f"{study.question} ({summary.condition})", columns, rows)
        say(told(summary, plan))
    say(f"report: {report.resolve()}, details beside it in study.json")
    return 0

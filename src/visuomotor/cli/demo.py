"""`visuomotor demo`: demonstrations, training, evaluation and report in one go."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from visuomotor.cli.console import Number, PathOrNone, parse, progress_bar, say, table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Demonstrate, train, evaluate, report. A step whose inputs did not change is reused. Other arguments set fields of
    the training run, as in `visuomotor train` (--stages.train.minutes 5)."""

    world: str = "tabletop"
    """The world: tabletop, metaworld, or your own as FILE.py:NAME."""
    full: bool = False
    """More data, more training, more episodes (about an hour)."""
    from_scratch: bool = False
    """Train from nothing, also where a checkpoint is shipped with the package."""
    out: PathOrNone = None
    """Folder of the run (default: runs/demo, runs/demo-full, ...)."""
    demonstrations: Number = None
    """Successful demonstrations to record."""
    scenes: Number = None
    """Single frames to record for grounding questions."""
    episodes: Number = None
    """Episodes per split in the evaluation."""
    control_episodes: Number = None
    """Episodes per control in the evaluation."""
    workers: int = 2
    """Simulator processes."""
    seed: int = 0
    """Of the demonstrations."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


def run(arguments: list[str]) -> int:
    options, unknown = parse("demo", Options, arguments, unknown=True)
    from visuomotor.apps.demo import StepDone, demo_plan, run_demo
    from visuomotor.cli.train import pairs

    given = {
        name: getattr(options, name) for name in ("demonstrations", "scenes", "episodes", "control_episodes", "out")
    }
    plan = demo_plan(
        options.world,
        full=options.full,
        from_scratch=options.from_scratch,
        workers=options.workers,
        seed=options.seed,
        overrides=pairs(unknown),
        **{name: value for name, value in given.items() if value is not None},
    )
    if plan.start:
        say(f"Starting from the shipped checkpoint {plan.start} (--from-scratch trains from nothing).")
    began = time.monotonic()
    with ExitStack() as bars:

        def watch(title: str) -> Callable[[int, int, str], None]:
            return bars.enter_context(progress_bar(title, transient=True))

        def finished(step: StepDone) -> None:
            bars.close()
            say(f"{step.name} {'reused, it took' if step.reused else 'took'} {step.seconds:.1f} s")

        result = run_demo(plan, watch, finished, break_lock=options.break_lock)
    columns, rows = result.results.table()
    table("success", columns, rows)
    say(f"in all {(time.monotonic() - began) / 60:.1f} minutes")
    say(f"report: {result.report.resolve().as_uri()}")
    return 0

"""`visuomotor demo`: demonstrations, training, evaluation and report in one go."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from visuomotor.cli.console import Number, PathOrNone, parse, progress_bar, say, table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Demonstrate, train, evaluate, report. A step whose inputs did not change is reused. Other arguments set fields of
    the training run, as in `visuomotor train` (--stages.train.minutes 5)."""

    world: Literal["tabletop", "metaworld"] = "tabletop"
    full: bool = False
    """More data, more training, more episodes (about an hour)."""
    from_scratch: bool = False
    """Train from nothing instead of starting from the small checkpoint that is shipped with the package."""
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


def run(arguments: list[str]) -> int:
    options, unknown = parse("demo", Options, arguments, unknown=True)
    from visuomotor.apps.demo import demo_plan, run_demo
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
    with ExitStack() as bars:

        def watch(title: str) -> Callable[[int, int, str], None]:
            bars.close()
            return bars.enter_context(progress_bar(title))

        result = run_demo(plan, watch)
    columns, rows = result.results.table()
    table("success", columns, rows)
    took = ", ".join(
        f"{name} {seconds:.0f} s" if seconds else f"{name} reused" for name, seconds in result.seconds.items()
    )
    say(f"steps: {took}; in all {sum(result.seconds.values()) / 60:.1f} minutes")
    say(f"report: {result.report.resolve()}")
    return 0

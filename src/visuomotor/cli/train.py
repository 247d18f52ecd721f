"""`visuomotor train RECIPE`: train a recipe, or fine-tune a checkpoint on your own data."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from visuomotor.cli.console import console, parse


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a recipe by name (or FILE.py:function). Any field of the run can be set: --stages.NAME.steps 500."""

    recipe: Annotated[str, tyro.conf.Positional]
    """A recipe's name, or FILE.py:function. `visuomotor train list` shows them."""
    out: Path = Path("runs/train")
    """Folder for checkpoints, metrics and state."""
    data: Path | None = None
    """A LeRobot v3 data set to train on instead of the recipe's own."""
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """A checkpoint to start from."""
    resume: bool = False
    """Continue an interrupted run exactly where it was."""
    overwrite: bool = False
    bad_samples: Literal["stop", "quarantine"] = "stop"
    """What a bad sample does: stop the run, or be counted, listed and left out."""
    threads: int | None = None
    """CPU threads (default: all cores)."""


def run(arguments: list[str]) -> int:
    from visuomotor.recipes import find_recipe, list_recipes, override

    if arguments[:1] == ["list"]:
        for name, text in list_recipes().items():
            console.print(f"  {name:<24} {text}", markup=False)
        return 0
    options, unknown = parse("train", Options, arguments, unknown=True)
    from visuomotor.training.progress import progress_bar
    from visuomotor.training.trainer import train

    given = {
        "data": str(options.data) if options.data else None,
        "start": str(options.start) if options.start else None,
    }
    recipe = find_recipe(options.recipe)
    plan = override(recipe(**{key: value for key, value in given.items() if value is not None}), pairs(unknown))
    with progress_bar(f"training {plan.name}") as update:
        last = train(
            plan,
            options.out,
            resume=options.resume,
            overwrite=options.overwrite,
            bad_samples=options.bad_samples,
            threads=options.threads,
            progress=update,
        )
    console.print(f"checkpoint: {last}")
    return 0


def pairs(arguments: list[str]) -> dict[str, str]:
    """['--a.b', '3', '--c=4'] -> {'a.b': '3', 'c': '4'}."""
    found: dict[str, str] = {}
    queue = list(arguments)
    while queue:
        name = queue.pop(0)
        if not name.startswith("--"):
            raise ValueError(f"unexpected argument {name!r}; overrides look like --stages.train.steps 500.")
        key, equals, value = name[2:].partition("=")
        if not equals:
            if not queue:
                raise ValueError(f"--{key} needs a value.")
            value = queue.pop(0)
        found[key] = value
    return found

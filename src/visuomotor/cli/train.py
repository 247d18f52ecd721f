"""`visuomotor train RECIPE`: train a recipe, or fine-tune a checkpoint on your own data."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import tyro

from visuomotor.cli.console import Number, parse, say
from visuomotor.cli.values import newest
from visuomotor.spelling import did_you_mean

FLAGS = {"data": "--data DATA", "start": "--from CHECKPOINT"}
SETTABLE = ("name", "corpus")  # fields of Run that are no holders of others


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train a recipe by name, or one of your own: FILE.py:function. `visuomotor train list` shows the recipes.

    The recipe's own arguments are options, too (--steps 500, --image-size 64), and so is every field of the run that
    it returns, by its dotted name: --stages.train.batch-size 32, --processor.levels.subtask 0, --config.llm.width 160.
    """

    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]
    """A recipe's name, or FILE.py:function."""
    out: Path = Path("runs/train")
    """Folder for checkpoints, metrics and state."""
    data: Annotated[str | None, tyro.conf.arg(metavar="DATA")] = None
    """Data set instead of the recipe's own: a LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    start: Annotated[Path | None, tyro.conf.arg(name="from", metavar="CHECKPOINT")] = None
    """A checkpoint to start from, or a training's folder."""
    resume: bool = False
    """Continue an interrupted run exactly where it was."""
    overwrite: bool = False
    """Replace the run that lies in --out."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""
    bad_samples: Literal["stop", "quarantine"] = "stop"
    """What a bad sample does: stop the run, or be counted, listed and left out."""
    threads: Number = None
    """CPU threads, by default OMP_NUM_THREADS, else all cores."""
    tracker: Literal["wandb", "trackio"] | None = None
    """An experiment tracker that gets the metrics, too."""


def run(arguments: list[str]) -> int:
    from visuomotor.recipes import find_recipe, list_recipes, override

    if arguments[:1] == ["list"]:
        for name, text in list_recipes().items():
            say(f"  {name:<18} {text}")
        return 0
    options, unknown = parse("train", Options, arguments, unknown=True)
    from visuomotor.training.progress import progress_bar
    from visuomotor.training.trainer import train

    recipe = find_recipe(options.recipe)
    given = {"data": options.data, "start": None if options.start is None else newest(options.start)}
    own, fields = recipe_arguments(recipe, pairs(unknown))
    own |= {name: str(value) for name, value in given.items() if value is not None}
    require_complete(options.recipe, recipe, own)
    plan = override(recipe(**own), fields)
    with progress_bar(f"training {plan.name}") as update:
        last = train(
            plan,
            options.out,
            resume=options.resume,
            overwrite=options.overwrite,
            break_lock=options.break_lock,
            bad_samples=options.bad_samples,
            threads=options.threads,
            tracker=options.tracker,
            progress=update,
        )
    report_quarantine(options.out / "quarantine.jsonl")
    say(f"checkpoint: {last}")
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


def recipe_arguments(recipe: Callable[..., Any], given: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(arguments of the recipe, fields of its run): a name without dots that the recipe takes is an argument."""
    from visuomotor.codec import decode

    hints = get_type_hints(inspect.unwrap(recipe))
    takes = list(inspect.signature(recipe).parameters)
    arguments, fields = {}, {}
    for name, text in given.items():
        key = name.replace("-", "_")
        if key in takes:
            arguments[key] = decode(hints.get(key, Any), text, f"--{name}", text=True)
        elif "." in name or key in SETTABLE:
            fields[name] = text
        else:
            hint = did_you_mean(name, (known.replace("_", "-") for known in takes))
            raise ValueError(
                f"there is no option --{name}.{hint} This recipe takes {', '.join(takes)}; fields of its run have "
                f"dotted names such as --stages.train.steps."
            )
    return arguments, fields


def require_complete(name: str, recipe: Callable[..., Any], given: dict[str, Any]) -> None:
    """ValueError with the options that the recipe cannot do without."""
    needed = [p for p in inspect.signature(recipe).parameters.values() if p.default is inspect.Parameter.empty]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    missing = [p.name for p in needed if p.kind in named and p.name not in given]
    if missing:
        flags = " and ".join(FLAGS.get(m, f"--{m.replace('_', '-')} VALUE") for m in missing)
        raise ValueError(f"recipe {name!r} needs {flags}.")


def report_quarantine(path: Path) -> None:
    """Say how many bad samples were left out, and where they are listed."""
    if path.exists():
        entries = [json.loads(line) for line in path.read_text().splitlines()]
        count = len({(entry["source"], entry["row"]) for entry in entries})
        if count:
            say(f"{count} bad samples were left out; {path} lists them.")

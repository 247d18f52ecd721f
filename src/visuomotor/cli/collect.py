"""`visuomotor collect`: record demonstrations of a simulated robot."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from visuomotor.cli.console import parse, progress_bar, say, table


@dataclass(frozen=True, kw_only=True)
class Options:
    """Record demonstrations of a simulated robot as a LeRobot v3 data set with annotations."""

    environment: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WORLD")] = "tabletop"
    """The world: tabletop, metaworld, or your own as FILE.py:NAME."""
    out: Path
    """Folder of the new data set."""
    episodes: int = 100
    """Successful demonstrations to record."""
    scenes: int = 0
    """Record this many single frames of random scenes instead (for grounding)."""
    split: str = "train"
    """Which scenarios of the world to take."""
    seed: int = 0
    """Of the scenarios and of the noise."""
    workers: int = 2
    """Simulator processes; the data set does not depend on their number."""
    action_noise: float = 0.0
    """Disturb the executed action by this share of its limits; the recorded action stays clean."""
    storage: Literal["video", "image"] = "video"
    """Images as mp4, or as PNG in the tables (lossless, large)."""
    codec: Literal["h264", "av1"] = "h264"
    """Of the videos: h264 decodes faster, av1 is smaller."""
    render_quality: Literal["fast", "default"] = "fast"
    """fast renders without shadows and multi-sampling; recorded in the data set."""
    option: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE")] = field(default_factory=dict)
    """Options of the world, e.g. --option vocabulary full."""
    resume: bool = False
    """Continue a collection that was interrupted."""
    overwrite: bool = False
    """Replace an existing data set."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


def run(arguments: list[str]) -> int:
    options = parse("collect", Options, arguments)
    from visuomotor.cli.values import typed
    from visuomotor.simulation.collect import CollectPlan, collect

    plan = CollectPlan(
        environment=options.environment,
        out=options.out,
        episodes=options.episodes,
        scenes=options.scenes,
        split=options.split,
        seed=options.seed,
        workers=options.workers,
        action_noise=options.action_noise,
        storage=options.storage,
        codec=options.codec,
        render_quality=options.render_quality,
        options={key: typed(value) for key, value in options.option.items()},
    )
    with progress_bar(f"collecting {options.environment}") as update:
        report = collect(
            plan,
            resume=options.resume,
            overwrite=options.overwrite,
            break_lock=options.break_lock,
            progress=lambda state: update(state.done, state.total, f"{state.failures} failed"),
        )
    table("demonstrations", ("task", "kept", "failed"), [(t, *c) for t, c in sorted(report.tasks.items())])
    say(f"data set: {options.out}")
    return 0

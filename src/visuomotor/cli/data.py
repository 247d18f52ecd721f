"""`visuomotor data COMMAND DIR`: look at a LeRobot v3 data set."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from visuomotor.cli.console import console, parse, table

Folder = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a data set holds: robot, cameras, episodes, tasks, annotations."""

    folder: Folder
    """The data set's folder."""
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Exact statistics of state and action over all frames."""

    folder: Folder
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Look for what makes training fail: NaN, dead or wrongly scaled dimensions, polarity, gaps, broken files."""

    folder: Folder
    json: bool = False


@dataclass(frozen=True, kw_only=True)
class View:
    """Draw an episode with its annotations: a contact sheet (.png) or a video (.mp4)."""

    folder: Folder
    episode: int = 0
    out: Path = Path("episode.png")
    """Where to write; the ending decides: .png or .mp4."""
    frames: int = 12
    """Frames on a contact sheet."""


@dataclass(frozen=True, kw_only=True)
class DraftEmbodiment:
    """Draft the embodiment of a data set that somebody else recorded; lists what you have to decide."""

    folder: Folder
    out: Path | None = None
    """Where to write the draft (default: embodiment.draft.json in the data set's folder)."""
    accept: bool = False
    """Write embodiment.json itself, with the draft's assumptions."""


COMMANDS = {"info": Info, "stats": Stats, "doctor": Doctor, "view": View, "embodiment": DraftEmbodiment}


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help"}:
        print("usage: visuomotor data COMMAND DIR\n")
        print("\n".join(f"  {name:<11} {(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()))
        return 0
    if arguments[0] not in COMMANDS:
        raise ValueError(f"unknown command {arguments[0]!r}; known: {', '.join(COMMANDS)}.")
    options = parse(f"data {arguments[0]}", COMMANDS[arguments[0]], arguments[1:])
    return {"info": info, "stats": stats, "doctor": doctor, "view": view, "embodiment": embodiment}[arguments[0]](
        options
    )


def info(options: Info) -> int:
    from visuomotor.data.lerobot import Dataset

    dataset = Dataset(options.folder)
    lengths = [s.stop - s.start for s in map(dataset.episode_slice, range(dataset.num_episodes))]
    tasks: dict[str, int] = {}
    for episode in range(dataset.num_episodes):
        tasks[dataset.instruction(episode)] = tasks.get(dataset.instruction(episode), 0) + 1
    names = ("subtask", "boxes", "trace", "progress", "gripper_switch", "contact")
    facts: dict[str, Any] = {
        "robot": dataset.embodiment.name if dataset.embodiment else "unknown (no embodiment.json)",
        "fps": dataset.fps,
        "cameras": list(dataset.cameras),
        "episodes": dataset.num_episodes,
        "frames": dataset.num_frames,
        "episode length": f"{min(lengths, default=0)} to {max(lengths, default=0)} frames",
        "distinct instructions": len(tasks),
        "columns": {key: list(value.shape[1:]) for key, value in dataset.columns.items()},
        "annotations": [name for name in names if dataset.has(name)],
        "hash": dataset.hash(),
    }
    if options.json:
        print(json.dumps(facts | {"tasks": tasks}, indent=2))
        return 0
    for key, value in facts.items():
        console.print(f"{key:<22} {value}", markup=False)
    table("most frequent instructions", ("instruction", "episodes"), sorted(tasks.items(), key=lambda t: -t[1])[:12])
    return 0


def stats(options: Stats) -> int:
    from visuomotor.data.lerobot import Dataset
    from visuomotor.data.statistics import compute_statistics

    statistics = compute_statistics([Dataset(options.folder)])
    values = {"state": statistics.state, "action": statistics.action}
    if options.json:
        print(json.dumps({key: vars(value) for key, value in values.items()}, indent=2, default=float))
        return 0
    columns = ("min", "q01", "q50", "mean", "q99", "max", "std")
    for name, value in values.items():
        rows = [
            (index, *(f"{getattr(value, column)[index]:.4g}" for column in columns)) for index in range(len(value.min))
        ]
        table(f"{name} (exact, over all frames)", ("dimension", *columns), rows)
    return 0


def doctor(options: Doctor) -> int:
    from visuomotor.data.doctor import doctor as examine
    from visuomotor.data.lerobot import Dataset

    findings = examine(Dataset(options.folder))
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    elif not findings:
        console.print("No findings: the data set looks healthy.")
    else:
        for finding in findings:
            console.print(f"[{finding.severity}] {finding.where}: {finding.what}\n    {finding.remedy}", markup=False)
    return 1 if any(finding.severity == "error" for finding in findings) else 0


def view(options: View) -> int:
    from visuomotor.data.lerobot import Dataset
    from visuomotor.data.view import annotated_video, contact_sheet

    dataset = Dataset(options.folder)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.out.suffix == ".png":
        contact_sheet(dataset, options.episode, options.frames).save(options.out)
    elif options.out.suffix == ".mp4":
        annotated_video(dataset, options.episode, options.out)
    else:
        raise ValueError(f"--out {options.out} must end in .png (contact sheet) or .mp4 (video).")
    console.print(f"wrote {options.out}")
    return 0


def embodiment(options: DraftEmbodiment) -> int:
    from visuomotor.data.draft import draft_embodiment
    from visuomotor.data.lerobot import Dataset

    draft, questions = draft_embodiment(Dataset(options.folder))
    path = options.out or options.folder / ("embodiment.json" if options.accept else "embodiment.draft.json")
    if path.name == "embodiment.json" and path.exists():
        raise FileExistsError(f"{path} exists; move it away first, or give another --out.")
    path.write_text(json.dumps(draft, indent=2) + "\n")
    console.print(f"wrote {path}")
    if questions:
        console.print("Please check these points in it, they cannot be read from the data:")
        for question in questions:
            console.print(f"  - {question}", markup=False)
    return 0

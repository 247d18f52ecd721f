"""`visuomotor data COMMAND DATA`: look at a data set."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from visuomotor.cli.console import parse, say, table
from visuomotor.spelling import did_you_mean

Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a data set holds: robot, cameras, episodes, tasks, annotations."""

    data: Data
    """A LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """Exact statistics of state and action over all frames."""

    data: Data
    """A LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Look for what makes training fail: NaN, dead or wrong dimensions, gaps, drift, pictures of other rows."""

    data: Data
    """A LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    json: bool = False
    """Print JSON."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Draw an episode with its annotations: a contact sheet (.png) or a video (.mp4)."""

    data: Data
    """A LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    episode: int = 0
    """Which episode, from 0."""
    out: Path = Path("episode.png")
    """Where to write; the ending decides: .png or .mp4."""
    frames: int = 12
    """Frames on a contact sheet."""


@dataclass(frozen=True, kw_only=True)
class DraftEmbodiment:
    """Draft the embodiment of a data set that somebody else recorded; lists what you have to decide.

    Correct the draft where it is wrong, then run the same command with --accept.
    """

    data: Data
    """A LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    out: Path | None = None
    """Where to write instead of embodiment.draft.json (with --accept: embodiment.json) in the data set's folder."""
    accept: bool = False
    """Write embodiment.json from your corrected draft, or from a fresh one when there is none."""


@dataclass(frozen=True, kw_only=True)
class WriteConversations:
    """Write questions and answers on annotated images as LLaVA conversations: conversations.json and PNG files."""

    data: Data
    """A LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    out: Path
    """Folder to write to."""
    images: int = 1000
    """Images at most, evenly spread over the data set."""
    per_image: int = 4
    """Questions on each image, a record each."""
    kinds: Annotated[dict[str, float], tyro.conf.arg(metavar="KIND WEIGHT")] = field(default_factory=dict)
    """Kinds of questions with their weights, e.g. --kinds box 2 count 1 (default: all alike)."""
    wording: Literal["canonical", "train", "heldout"] = "canonical"
    """How questions are put: in the canonical words, or by templates that training uses or holds out."""
    coordinates: int = 1000
    """The side of an image in the coordinates of boxes; what the model's processor has (nano: 100)."""
    seed: int = 0
    """Of the questions."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Share of each task's frames that a DAM-VLA's router is told to be manipulation, by every signal that there is."""

    data: Data
    """A LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    covers: Literal["changes", "phases"] = "changes"
    """Frames near the signal's changes (published), or the whole phases in which it is on."""


@dataclass(frozen=True, kw_only=True)
class Annotate:
    """Write a copy with sub-tasks found by a rule: where the gripper switches, and where the arm pauses."""

    data: Data
    """A LeRobot v3 folder, or FILE.py:thing:PATH for a format of your own."""
    out: Path
    """Folder of the copy."""
    least_seconds: float = 1.0
    """No sub-task is shorter than this."""
    pause: float = 0.3
    """How slow a pause is, as a share of the episode's fast motion."""
    break_lock: bool = False
    """Take the folder's lock from a process on another host that has ended; one that runs on this host keeps it."""


COMMANDS = {
    "info": Info, "stats": Stats, "doctor": Doctor, "view": View, "embodiment": DraftEmbodiment,
    "conversations": WriteConversations, "labels": Labels, "annotate": Annotate,
}  # fmt: skip


def run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help"}:
        print("usage: visuomotor data COMMAND DATA\n")
        print("\n".join(f"  {name:<13} {(command.__doc__ or '').strip()}" for name, command in COMMANDS.items()))
        return 0
    if arguments[0] not in COMMANDS:
        hint = did_you_mean(arguments[0], COMMANDS)
        raise ValueError(f"unknown command {arguments[0]!r}.{hint} Known: {', '.join(COMMANDS)}.")
    options = parse(f"data {arguments[0]}", COMMANDS[arguments[0]], arguments[1:])
    verbs = {
        "info": info, "stats": stats, "doctor": doctor, "view": view, "embodiment": embodiment,
        "conversations": conversations, "labels": labels, "annotate": annotate,
    }  # fmt: skip
    return verbs[arguments[0]](options)


def info(options: Info) -> int:
    from visuomotor.data.sources import open_source

    dataset = open_source(options.data)
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
        say(f"{key:<22} {_plain(value)}")
    table("most frequent instructions", ("instruction", "episodes"), sorted(tasks.items(), key=lambda t: -t[1])[:12])
    return 0


def _plain(value: Any) -> str:
    """[] -> "none", ["a", "b"] -> "a, b", {"a": [7], "b": []} -> "a[7], b"."""
    if isinstance(value, dict):
        return ", ".join(f"{key}{shape if shape else ''}" for key, shape in value.items())
    return (", ".join(value) or "none") if isinstance(value, list) else str(value)


def stats(options: Stats) -> int:
    from visuomotor.data.sources import open_source
    from visuomotor.data.statistics import require_finite, vector_statistics

    dataset = open_source(options.data)
    found = {}
    for column in ("observation.state", "action"):
        if column in dataset.columns:
            values = dataset.columns[column]
            named = dataset.feature(column).get("names")
            names = [str(i) for i in range(values.shape[1])]
            if isinstance(named, list) and len(named) == len(names):
                names = [str(name) for name in named]
            require_finite(dataset, column, values, names)
            found[column] = (names, vector_statistics(list(values.T)))
    if options.json:
        print(json.dumps({column: {"names": names, **vars(value)} for column, (names, value) in found.items()}))
        return 0
    shown = ("min", "q01", "q50", "mean", "q99", "max", "std")
    for column, (names, value) in found.items():
        rows = [(name, *(f"{getattr(value, s)[i]:.3g}" for s in shown)) for i, name in enumerate(names)]
        table(f"{column} (exact, over all {value.count} frames)", ("dimension", *shown), rows)
    return 0


def doctor(options: Doctor) -> int:
    from visuomotor.data.doctor import doctor as examine
    from visuomotor.data.sources import open_source

    findings = examine(open_source(options.data))
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    elif not findings:
        say("No findings: the data set looks healthy.")
    else:
        for finding in findings:
            say(f"[{finding.severity}] {finding.where}: {finding.what}\n    {finding.remedy}")
    return 1 if any(finding.severity == "error" for finding in findings) else 0


def view(options: View) -> int:
    from visuomotor.data.sources import open_source
    from visuomotor.data.view import annotated_video, contact_sheet

    dataset = open_source(options.data)
    if not 0 <= options.episode < dataset.num_episodes:
        raise ValueError(f"{options.data} has episodes 0 to {dataset.num_episodes - 1}, not {options.episode}.")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.out.suffix == ".png":
        contact_sheet(dataset, options.episode, options.frames).save(options.out)
    elif options.out.suffix == ".mp4":
        annotated_video(dataset, options.episode, options.out)
    else:
        raise ValueError(f"--out {options.out} must end in .png (contact sheet) or .mp4 (video).")
    say(f"wrote {options.out}")
    return 0


def embodiment(options: DraftEmbodiment) -> int:
    from visuomotor.codec import decode
    from visuomotor.data.draft import draft_embodiment
    from visuomotor.data.sources import open_source
    from visuomotor.embodiment import Embodiment

    dataset = open_source(options.data)
    drafted = dataset.root / "embodiment.draft.json"
    target = options.out or (dataset.root / "embodiment.json" if options.accept else drafted)
    if target != drafted and target.exists():
        raise FileExistsError(f"{target} exists; move it away first, or give another --out.")
    if options.accept and drafted.exists():
        robot, questions = Embodiment.load(drafted), []
    else:
        draft, questions = draft_embodiment(dataset)
        robot = decode(Embodiment, draft)
    robot.save(target)
    say(f"wrote {target}" + (f" from your {drafted.name}" if options.accept and not questions else ""))
    if questions:
        say(
            "These points cannot be read from the data; check them"
            + ("" if options.accept else ", then --accept")
            + ":"
        )
        for question in questions:
            say(f"  - {question}")
    return 0


def conversations(options: WriteConversations) -> int:
    from visuomotor.data.config import ProcessorConfig
    from visuomotor.data.conversations import write_conversations
    from visuomotor.data.prepared import spread_rows
    from visuomotor.data.scene_conversations import scene_conversations
    from visuomotor.data.sources import open_source

    dataset = open_source(options.data)
    roles = dataset.require_embodiment().roles
    config = ProcessorConfig(coordinates=options.coordinates, questions_per_image=options.per_image, image_roles=roles)
    if options.images < 1:
        raise ValueError(f"--images is {options.images}; it must be at least 1.")
    rows = spread_rows(dataset.num_frames, options.images)
    made = scene_conversations(dataset, rows, config, kinds=options.kinds, wording=options.wording, seed=options.seed)
    say(f"wrote {write_conversations(made, options.out, break_lock=options.break_lock)}")
    return 0


def labels(options: Labels) -> int:
    from visuomotor.data.phases import label_shares
    from visuomotor.data.sources import open_source
    from visuomotor.data.weighting import Signal, WeightingConfig

    dataset, shares = open_source(options.data), {}
    for signal in get_args(Signal):
        try:
            shares[signal] = label_shares(dataset, WeightingConfig(signal=signal, covers=options.covers))
        except ValueError as error:
            say(f"{signal}: {error}")
    if shares:
        tasks = next(iter(shares.values()))
        rows = [[task, *(f"{100 * found[task]:.0f} %" for found in shares.values())] for task in tasks]
        table(f"frames labelled manipulation, {options.covers}", ["task", *shares], rows)
    return 0


def annotate(options: Annotate) -> int:
    from visuomotor.data.lerobot.annotate import write_subtasks
    from visuomotor.data.sources import open_source
    from visuomotor.data.substeps import SubstepRule, substeps

    dataset = open_source(options.data)
    texts = substeps(dataset, SubstepRule(least_seconds=options.least_seconds, pause=options.pause))
    write_subtasks(dataset, texts, options.out, break_lock=options.break_lock)
    episodes = map(dataset.episode_slice, range(dataset.num_episodes))
    counts = [1 + sum(a != b for a, b in zip(texts[s], texts[s][1:], strict=False)) for s in episodes]
    say(f"wrote {options.out}: {min(counts)} to {max(counts)} sub-tasks an episode. Look at some:")
    say(f"  visuomotor data view {options.out} --episode 0")
    return 0

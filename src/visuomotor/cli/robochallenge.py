"""`visuomotor robochallenge CHECKPOINT`: drive the jobs of a RoboChallenge collection; `... mock` rehearses it here."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from visuomotor.cli import robochallenge_mock
from visuomotor.cli.console import Number, PathOrNone, parse, progress_bar, say, table
from visuomotor.cli.robochallenge_mock import RobotName, TextOrNone, Type
from visuomotor.cli.values import newest

if TYPE_CHECKING:
    from visuomotor.serving.robochallenge.jobs import JobReport
    from visuomotor.session import PolicyLike

USER = "ROBOCHALLENGE_USER"
FloatOrNone = Annotated[float | None, tyro.conf.arg(metavar="FLOAT")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Drive the jobs of a collection on RoboChallenge's robots. `visuomotor robochallenge mock` starts a mock of the
    platform on this computer, with faults on demand, to rehearse on."""

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint's or a training's folder; the address of a server that has one, ws://...; or "hold", which sends the
    robot's own pose back: all is tried, and nothing moves."""
    address: str
    """Of the platform, e.g. http://127.0.0.1:9098."""
    collection: str
    """The job collection; in generation 2, the submission."""
    user: TextOrNone = None
    """User token (default: the environment variable ROBOCHALLENGE_USER, which no list of processes shows)."""
    generation: Literal["1", "2"] = "1"
    """Of the platform's interface."""
    robot: Annotated[RobotName | None, tyro.conf.arg(metavar="{aloha,arx5,franka,ur5}")] = None
    """Which robot it is (default: the name of the checkpoint's embodiment)."""
    action_type: Annotated[Type | None, tyro.conf.arg(metavar="TYPE")] = None
    """joint, pos, leftjoint, leftpos, ... (default: the robot's usual one)."""
    task: TextOrNone = None
    """A task of Table30: its prompt, and how its chunks are executed (default: what the job says)."""
    prompt: TextOrNone = None
    """What the policy is told (default: what the job or the task says)."""
    generalist: bool = False
    """Execute chunks as the published generalist does, not as the task's specialist."""
    plain: bool = False
    """Send chunks as the policy gives them, without the task's rules for grippers and steps."""
    horizon: Number = None
    """Actions of a chunk that are executed before the policy looks again (default: the task's, or all)."""
    duration: FloatOrNone = None
    """Seconds for each action (default: the task's, or the checkpoint's control rate)."""
    safety: Literal["clamp", "reject", "shadow"] = "clamp"
    """What happens to an action beyond the robot's limits: kept within them, replaced by a hold, or only counted."""
    safety_limits: PathOrNone = None
    """JSON file with limits beside the embodiment's own, such as {"step_length": 0.02, "step_angle": 0.2}."""
    camera: Annotated[dict[str, str], tyro.conf.arg(metavar="POLICYS PLATFORMS")] = field(default_factory=dict)
    """Which of the platform's cameras a camera of the policy is, where the names do not say it."""
    seconds: float = 600.0
    """After which a job is left alone."""
    patience: float = 3600.0
    """Seconds to wait for a job."""
    dry_run: bool = False
    """Look at each job once, and show what would be sent in place of sending it."""


def run(arguments: list[str]) -> int:
    if arguments[:1] == ["mock"]:
        return robochallenge_mock.run(arguments[1:])
    options = parse("robochallenge", Options, arguments)
    from visuomotor_client.limits import SafetyLimits

    from visuomotor.serving.config import read_safety_limits
    from visuomotor.serving.robochallenge.connection import Connection
    from visuomotor.serving.robochallenge.conventions import Convention
    from visuomotor.serving.robochallenge.jobs import JobLoop, JobReport, JobSettings
    from visuomotor.serving.robochallenge.platform import Platform

    user = options.user or os.environ.get(USER)
    if not user:
        raise ValueError(f"The platform wants a user token: set {USER}, or give --user.")
    policy, robot = find_policy(options)
    generation = int(options.generation)
    settings = JobSettings(
        prompt=options.prompt,
        task=options.task,
        generalist=options.generalist,
        plain=options.plain or options.checkpoint == "hold",
        horizon=options.horizon,
        duration=options.duration,
        safety=options.safety,
        limits=SafetyLimits() if options.safety_limits is None else read_safety_limits(options.safety_limits),
        seconds=options.seconds,
        patience=options.patience,
    )
    platform = Platform(Connection(options.address, user, show=show if options.dry_run else None), generation)
    convention = Convention(robot=robot, generation=generation, action_type=options.action_type)
    with progress_bar("waiting for jobs", transient=True) as update:

        def watch(report: JobReport) -> None:
            done = f"job {report.job}: {report.chunks} chunks, {report.failures} failures"
            update(int(report.seconds), int(settings.seconds), done)

        loop = JobLoop(platform, policy, convention, settings, cameras=options.camera, watch=watch)
        reports = loop.run(options.collection)
    return summarise(reports)


def find_policy(options: Options) -> "tuple[PolicyLike, str]":
    """What drives the robot, and the robot's name."""
    from visuomotor.models import published_robots
    from visuomotor.serving.remote import open_policy
    from visuomotor.serving.robochallenge.conventions import ROBOTS
    from visuomotor.serving.robochallenge.hold import Hold

    if options.checkpoint == "hold":
        if options.robot is None:
            raise ValueError(f"Say which robot is to be held: --robot {', '.join(ROBOTS)}.")
        robots = published_robots()
        embodiment, poses = robots[options.robot], robots["arx5"].state
        if options.robot == "aloha" and (options.generation == "2" or options.action_type == "pos"):
            both = tuple(replace(c, name=f"{side}_{c.name}") for side in ("left", "right") for c in poses)
            embodiment = replace(embodiment, state=both, action=both)
        return Hold(embodiment=embodiment), options.robot
    policy = open_policy(newest(options.checkpoint))
    name = options.robot or policy.embodiment.name
    if name not in ROBOTS:
        raise ValueError(
            f"The checkpoint's robot is called {name!r}; say which one it is: --robot {', '.join(ROBOTS)}."
        )
    return policy, name


def show(request: str, contents: Mapping[str, Any]) -> None:
    """What would be sent, with numbers short enough to be read."""
    say(f"would POST {request}")
    rows = contents.get("actions")
    if rows is None:
        say(f"  {json.dumps(contents)}")
        return
    say(f"  {len(rows)} actions of {len(rows[0])} numbers, {contents['duration']:g} s each:")
    for row in rows:
        say("  " + "  ".join(f"{value:9.4f}" for value in row))


def summarise(reports: "list[JobReport]") -> int:
    """Print what became of the jobs; 1 when there was none, or one was given up."""
    rows = []
    for report in reports:
        latency = sorted(report.latency)
        middle = f"{1000 * latency[len(latency) // 2]:.0f}" if latency else "-"
        outcome = report.outcome.partition(":")[0]
        counts = (report.chunks, report.waits, report.failures, report.interventions)
        rows.append((report.job, outcome, *counts, middle))
    table("jobs", ("job", "outcome", "chunks", "waits", "failures", "interventions", "policy ms"), rows)
    left = [report for report in reports if report.outcome.startswith("given up")]
    for report in left:
        say(f"job {report.job} was {report.outcome}")
    return 0 if reports and not left else 1

"""`visuomotor robochallenge mock`: the platform on this computer, to rehearse on."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from visuomotor.cli.console import Number, parse, say

RobotName = Literal["aloha", "arx5", "franka", "ur5"]
Type = Literal["joint", "pos", "leftjoint", "leftpos", "rightjoint", "rightpos"]
TextOrNone = Annotated[str | None, tyro.conf.arg(metavar="TEXT")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """A mock of the platform on this computer, with one robot that follows chunks and refuses wild ones."""

    robot: RobotName = "arx5"
    """Which robot it has."""
    generation: Literal["1", "2"] = "1"
    """Of the interface."""
    action_type: Annotated[Type | None, tyro.conf.arg(metavar="TYPE")] = None
    """What it accepts (default: the robot's usual one)."""
    numbers: Number = None
    """How many the robot has: 7 or 8 for UR5 in generation 1."""
    user: str = "me"
    """The user token that it knows."""
    port: int = 9098
    """Where it listens, on this computer only; 0 takes any free one."""
    jobs: int = 1
    """How many jobs it has."""
    seconds: float = 60.0
    """For which a started job runs."""
    prepare: float = 2.0
    """Seconds until a job is ready."""
    task: TextOrNone = None
    """Of its jobs, in generation 2 (default: one of Table30's for this robot)."""
    prompt: TextOrNone = None
    """Of its jobs, in generation 2."""
    fault: tuple[str, ...] = ()
    """What goes wrong, as ENDPOINT:FAULT or ENDPOINT:FAULT:TIMES, e.g. state:drop:2 action:refused clock:timeout."""


def run(arguments: list[str]) -> int:
    options = parse("robochallenge mock", Options, arguments)
    from visuomotor.serving.robochallenge.conventions import Convention
    from visuomotor.serving.robochallenge.mock import MockPlatform

    convention = Convention(
        robot=options.robot, generation=int(options.generation), action_type=options.action_type
    )  # fmt: skip
    mock = MockPlatform(
        convention,
        user=options.user,
        jobs=options.jobs,
        seconds=options.seconds,
        prepare=options.prepare,
        width=options.numbers,
        prompt=options.prompt,
        task=options.task,
        port=options.port,
    )
    for given in options.fault:
        endpoint, _, rest = given.partition(":")
        fault, _, times = rest.partition(":")
        if times and not times.isdigit():
            raise ValueError(f"--fault {given}: expected ENDPOINT:FAULT or ENDPOINT:FAULT:TIMES.")
        mock.fail(endpoint, fault, int(times or 1))
    say(f"{options.robot}, generation {options.generation}, user {options.user}: {mock.address}  (Ctrl-C ends it)")
    mock.serve()
    return 0

"""`visuomotor play [CHECKPOINT]`: a page on which a policy drives a simulated robot."""

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

from visuomotor.cli.console import PathOrNone, parse, say

if TYPE_CHECKING:
    from visuomotor.apps.live.page import LivePage


@dataclass(frozen=True, kw_only=True)
class Options:
    """A page in your browser: type an instruction, see the sub-task, box and chunk that the policy predicts, watch the
    robot do it, move objects under its hand, stop it."""

    checkpoint: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[CHECKPOINT]")] = None
    """A checkpoint's or a training's folder, the address of a server that has one, ws://..., or your own policy as
    FILE.py:NAME (default: the checkpoint that comes with the world)."""
    env: str = "tabletop"
    """The world: tabletop, metaworld, or your own as FILE.py:NAME."""
    port: int = 8080
    """Of the page, on this computer only; 0 takes any free one."""
    execute: int = 4
    """Actions of a chunk that are executed before the policy looks again."""
    preview: float = 0.7
    """Seconds for which a new sub-task is shown before the robot moves."""
    speed: float = 1.0
    """Of the world; 1 is real time."""
    safety_limits: PathOrNone = None
    """JSON file with limits beside the robot's own, such as {"step_length": 0.02}."""
    seed: int = 100_000
    """Of the scenes."""
    option: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE")] = field(default_factory=dict)
    """Options of the world, e.g. --option distractors 4."""


def run(arguments: list[str]) -> int:
    options = parse("play", Options, arguments)
    from visuomotor_client.limits import SafetyLimits

    from visuomotor.apps.live.page import LivePage
    from visuomotor.apps.live.play import Play, PlaySettings
    from visuomotor.cli.values import newest, typed
    from visuomotor.serving.config import read_safety_limits
    from visuomotor.serving.remote import open_policy
    from visuomotor.simulation.interface import load_world, make_environment, make_scenarios

    limits = SafetyLimits() if options.safety_limits is None else read_safety_limits(options.safety_limits)
    settings = PlaySettings(
        execute=options.execute, preview=options.preview, speed=options.speed, limits=limits
    )  # fmt: skip
    given = {key: typed(value) for key, value in options.option.items()}
    name = options.checkpoint or load_world(options.env).checkpoint
    if name is None:
        raise ValueError(f"No checkpoint comes with the world {options.env}; name one: visuomotor play CHECKPOINT.")
    environment = make_environment(options.env, **given)
    policy = open_policy(newest(str(name)), environment.embodiment)
    page = LivePage(lambda command: play.command(command), left=lambda: play.command({"do": "pause"}))
    play = Play(
        environment,
        policy,
        lambda n: make_scenarios(options.env, "train", 1, options.seed + n, **given)[0],
        page.publish,
        settings,
    )
    try:
        say(f"page: http://127.0.0.1:{serve_in_background(page, options.port)}/  (Ctrl-C ends it)")
        play.run()
    finally:
        environment.close()
    return 0


def serve_in_background(page: "LivePage", port: int) -> int:
    """Serve the page in a thread of its own, and leave this one to the world; the port."""
    from visuomotor.apps.live.page import serve_page

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    server = asyncio.run_coroutine_threadsafe(serve_page(page, port), loop).result()
    return server.sockets[0].getsockname()[1]

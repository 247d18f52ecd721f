"""`visuomotor serve CHECKPOINT`: a policy behind openpi's and vla-eval's protocols."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from visuomotor_client.limits import SafetyLimits

from visuomotor.cli.console import Number, PathOrNone, parse, say
from visuomotor.cli.values import newest, typed
from visuomotor.embodiment import Embodiment
from visuomotor.serving.config import Limits, ServeConfig, read_api_keys, read_safety_limits

Pairs = Annotated[dict[str, str], tyro.conf.arg(metavar="CAMERA KEY")]
Port = Annotated[int | None, tyro.conf.arg(metavar="PORT|None")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Serve a checkpoint to robots (openpi's protocol) and to benchmarks (vla-eval's), until Ctrl-C."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """A checkpoint's folder, such as runs/train/checkpoints/step-000500, or a training's, whose newest it takes; or
    your own policy as FILE.py:NAME."""
    host: str = "127.0.0.1"
    """Address to listen on; others than loopback want --api-keys and --tls, or --insecure."""
    openpi_port: Port = 8000
    """Port of openpi's protocol; 0 takes a free one, None leaves it out."""
    vla_eval_port: Port = 8001
    """Port of vla-eval's protocol; 0 takes a free one, None leaves it out."""
    page_port: Port = None
    """Port of a page that shows what the policy sees and does and can stop all robots, on this computer only; 0 takes a
    free one, None leaves it out."""
    layout: Literal["aloha", "droid", "libero"] | None = None
    """Keys of openpi's requests (default: by the embodiment's name, else images/CAMERA, state and prompt)."""
    vla_eval_layout: Literal["libero"] | None = None
    """Cameras of vla-eval's observations: libero has agentview and wrist (default: the embodiment's own names)."""
    camera: Pairs = field(default_factory=dict)
    """Keys of cameras in openpi's requests, e.g. --camera scene observation/image."""
    vla_eval_camera: Pairs = field(default_factory=dict)
    """Keys of cameras in vla-eval's observations, e.g. --vla-eval-camera scene images/agentview."""
    state: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[KEY ...]")] = None
    """Keys of openpi's requests whose numbers make the state, in this order."""
    instruction: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """For requests that have none."""
    execute: int = 8
    """vla-eval: actions of a chunk that are given out before the policy looks again."""
    safety: Literal["clamp", "reject", "shadow"] = "clamp"
    """What happens to a command beyond the robot's limits: kept within them, replaced by a hold, or only counted."""
    safety_limits: PathOrNone = None
    """JSON file with limits beside the embodiment's own, such as {"step_length": 0.02, "watchdog": 0.5}."""
    max_batch_size: int = 32
    """Requests of one forward pass."""
    max_wait_ms: float = 5.0
    """How long a request waits for others to share its forward pass, while not every client has asked."""
    think: Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[STR ...]")] = None
    """Levels that the policy writes before it acts (default: what it was trained to write)."""
    policy: Annotated[dict[str, str], tyro.conf.arg(metavar="NAME VALUE")] = field(default_factory=dict)
    """Other settings of the policy, e.g. --policy think_every 2 num_samples 8."""
    embodiment: PathOrNone = None
    """The robot's embodiment.json, for a checkpoint that has learnt several (default: its first)."""
    seed: Number = None
    """Of the noise: the n-th request of a connection or episode always gets the same (default: fresh noise)."""
    device: str = "cpu"
    """Where the policy computes, e.g. cuda."""
    api_keys: PathOrNone = None
    """File with API keys, one in each line (or set VISUOMOTOR_API_KEYS, separated by commas)."""
    tls: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="CERTIFICATE KEY")] = None
    """Two PEM files."""
    insecure: bool = False
    """Allow other addresses than loopback without API keys and TLS."""
    max_message_mb: float = 64.0
    """Largest message; a longer one closes its connection."""
    request_seconds: float = 60.0
    """Longest time to an answer."""
    log: Literal["text", "json"] = "text"
    """Form of the log on standard error."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """What is logged."""


def run(arguments: list[str]) -> int:
    options = parse("serve", Options, arguments)
    config = _config(options)  # before torch is imported: a wrong option is told at once
    from visuomotor.apps.live.served import ServedPage
    from visuomotor.serving.logs import configure
    from visuomotor.serving.observations import keys_for
    from visuomotor.serving.remote import open_policy
    from visuomotor.serving.server import PolicyServer, serve

    configure(json_lines=options.log == "json", level=options.log_level)
    settings = {name: typed(value) for name, value in options.policy.items()}
    given = None if options.embodiment is None else Embodiment.load(options.embodiment)
    policy = open_policy(str(newest(options.checkpoint)), given, think=options.think, device=options.device, **settings)
    robot = policy.embodiment
    libero = "vla-eval" if options.vla_eval_layout else None
    keys = {
        "openpi": keys_for(robot, "openpi", layout=options.layout, cameras=options.camera, state=options.state),
        "vla-eval": keys_for(robot, "vla-eval", layout=libero, cameras=options.vla_eval_camera),
    }

    server = PolicyServer(policy, config, keys=keys)
    page = None if options.page_port is None else ServedPage(server.service, port=options.page_port)

    def started(server: PolicyServer) -> None:
        say(f"{options.checkpoint} drives {robot.name!r}, {robot.action_dim} numbers at {robot.control_hz:g} Hz")
        for protocol, address in server.addresses.items():
            where = keys[protocol]
            say(f"  {protocol:<9} {address}   {', '.join((*where.cameras.values(), *where.state, where.instruction))}")
        if page is not None:
            say(f"  page      {page.address}")
        say("ready; /health and /metrics on either port; Ctrl-C stops")

    serve(server, started=started, beside=page)
    return 0


def _config(options: Options) -> ServeConfig:
    keys = frozenset(key for key in os.environ.get("VISUOMOTOR_API_KEYS", "").split(",") if key)
    if options.api_keys is not None:
        keys |= read_api_keys(options.api_keys)
    certificate, private_key = options.tls or (None, None)
    return ServeConfig(
        host=options.host,
        openpi_port=options.openpi_port,
        vla_eval_port=options.vla_eval_port,
        max_batch_size=options.max_batch_size,
        max_wait=options.max_wait_ms / 1e3,
        execute=options.execute,
        seed=options.seed,
        safety=options.safety,
        safety_limits=SafetyLimits() if options.safety_limits is None else read_safety_limits(options.safety_limits),
        instruction=options.instruction,
        api_keys=keys,
        certificate=certificate,
        private_key=private_key,
        insecure=options.insecure,
        limits=Limits(message_bytes=int(options.max_message_mb * 2**20), request_seconds=options.request_seconds),
    )

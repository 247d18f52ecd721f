"""`visuomotor serve` in this process: wrong options are one sentence; a client gets a chunk; SIGTERM ends it with 0."""

import os
import re
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
from visuomotor_client import connect

from tests.cli.conftest import Command

CHECKPOINT = Path(__file__).parents[2] / "src" / "visuomotor" / "checkpoints" / "tabletop-nano"


def test_careless_and_contradictory_options_are_refused(command: Command, tmp_path: Path) -> None:
    assert "API keys and a TLS certificate" in command("serve", CHECKPOINT, "--host", "0.0.0.0").sentence
    assert "is not a whole checkpoint" in command("serve", tmp_path).sentence
    assert "has ['scene', 'wrist']" in command("serve", CHECKPOINT, "--camera", "front", "observation/image").sentence
    limits = tmp_path / "limits.json"
    limits.write_text('{"speed": 1}')
    assert "holds no safety limits" in command("serve", CHECKPOINT, "--safety-limits", limits).sentence


def test_a_checkpoint_is_served_until_a_signal(command: Command) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    replies: list[dict[str, Any]] = []

    def drive() -> None:
        camera = np.zeros((128, 128, 3), np.uint8)
        views = {"observation/image": camera, "observation/wrist_image": camera}
        try:
            with connect(f"ws://127.0.0.1:{port}", attempts=12) as policy:
                replies.append(policy.infer({**views, "observation/state": np.zeros(7), "prompt": "open the drawer"}))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=drive)
    client.start()
    answer = command(
        "serve", CHECKPOINT, "--openpi-port", port, "--vla-eval-port", "None", "--page-port", "0", "--layout", "libero",
        "--log", "json",
    )  # fmt: skip
    client.join(20)
    assert answer.status == 0
    assert f"ws://127.0.0.1:{port}" in answer.out
    assert re.search(r"page +http://127\.0\.0\.1:[1-9]\d+/\n", answer.out)
    assert replies[0]["actions"].shape == (8, 7)
    assert np.isfinite(replies[0]["actions"]).all()
    assert set(replies[0]["text"]) >= {"subtask"}

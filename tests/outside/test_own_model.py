"""A model in a file of its own is trained on a data set, rolled out in a world and served, all of one's own."""

import json
import os
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import torch
from visuomotor_client import connect

from tests.cli.conftest import Command, command
from tests.outside.test_own_world import ROOMS, rolled_out, succeeded
from visuomotor.policy import load_policy

__all__ = ["command"]  # the fixture

HERE = Path(__file__).parent


def test_train_evaluate_serve(command: Command, tmp_path: Path) -> None:
    succeeded(command("collect", ROOMS, "--out", tmp_path / "data", "--episodes", 12, "--storage", "image"))
    train = ("train", f"{HERE}/diffuser.py:recipe", "--data", tmp_path / "data", "--out", tmp_path / "run")
    succeeded(command(*train, "--steps", 30, "--threads", 1))
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses
    assert all(np.isfinite(line.get("loss", 0.0)) for line in losses)
    checkpoint = next((tmp_path / "run" / "checkpoints").iterdir())
    assert json.loads((checkpoint / "config.json").read_text())["model"] == f"{HERE}/diffuser.py:SPEC"
    given = ("--environment", ROOMS, "--episodes", 2, "--control-episodes", 0, "--out", tmp_path / "eval")
    succeeded(command("eval", checkpoint, *given, "--workers", 1, "--max-steps", 8))
    assert rolled_out(tmp_path / "eval")["train"][1] == 2
    assert served(command, checkpoint).shape == (4, 2)


def served(command: Command, checkpoint: Path) -> np.ndarray:
    """The chunk that a client gets of the served checkpoint."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    chunks: list[np.ndarray] = []

    def drive() -> None:
        picture = np.full((32, 32, 3), 90, np.uint8)
        message = {"images/ceiling": picture, "state": np.full(2, 0.5), "prompt": "go to the red tile"}
        try:
            with connect(f"ws://127.0.0.1:{port}", attempts=12) as policy:
                chunks.append(policy.infer(message)["actions"])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=drive)
    client.start()
    succeeded(command("serve", checkpoint, "--openpi-port", port, "--vla-eval-port", "None"))
    client.join(20)
    return chunks[0]


def test_a_saved_model_acts_as_before(command: Command, tmp_path: Path) -> None:
    succeeded(command("collect", ROOMS, "--out", tmp_path / "data", "--episodes", 3, "--storage", "image"))
    train = ("train", f"{HERE}/diffuser.py:recipe", "--data", tmp_path / "data", "--out", tmp_path / "run")
    succeeded(command(*train, "--steps", 2, "--threads", 1))
    first = load_policy(next((tmp_path / "run" / "checkpoints").iterdir()))
    first.save(tmp_path / "again")
    second = load_policy(tmp_path / "again")
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor)

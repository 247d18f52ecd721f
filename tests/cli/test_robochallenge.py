"""`visuomotor robochallenge` against the mock platform."""

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Command
from visuomotor.cli.robochallenge_mock import run as run_mock
from visuomotor.serving.robochallenge.conventions import Convention
from visuomotor.serving.robochallenge.mock import MockPlatform


@pytest.fixture
def mock() -> Iterator[MockPlatform]:
    with MockPlatform(Convention(robot="aloha", generation=2), user="me", chunks=1) as platform:
        yield platform


def arguments(mock: MockPlatform, *others: object) -> tuple[object, ...]:
    there = ("--generation", 2, "--address", mock.address, "--collection", "7")
    return ("robochallenge", "hold", "--robot", "aloha", *there, *others)


def test_a_dry_run_shows_what_would_be_sent(command: Command, mock: MockPlatform) -> None:
    answer = command(*arguments(mock, "--user", "me", "--dry-run"))
    assert answer.status == 0, answer.error
    assert 'would POST /jobs/update\n  {"job_id": "1", "action": "start"}' in answer.out
    assert "5 actions of 16 numbers, 0.1 s each:" in answer.out
    assert "shown" in answer.out
    assert not mock.robot.received


def test_a_held_robot_stands_still(command: Command, mock: MockPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBOCHALLENGE_USER", "me")
    before = mock.robot.numbers
    answer = command(*arguments(mock, "--horizon", 1, "--seconds", 20))
    assert answer.status == 0, answer.error
    assert "finished" in answer.out
    assert len(mock.robot.received) == 1
    np.testing.assert_allclose(mock.robot.received[0][0], before, atol=1e-6)


def test_what_is_missing_is_said(
    command: Command, mock: MockPlatform, line_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROBOCHALLENGE_USER", raising=False)
    assert "set ROBOCHALLENGE_USER, or give --user" in command(*arguments(mock)).sentence
    there = ("--address", mock.address, "--collection", "7", "--user", "me")
    assert "Say which robot is to be held" in command("robochallenge", "hold", *there).sentence
    assert "say which one it is: --robot aloha" in command("robochallenge", line_checkpoint, *there).sentence
    wrong = command("robochallenge", line_checkpoint, *there, "--robot", "arx5").sentence
    assert "needs position and rotation and gripper for each of 1 arms" in wrong
    assert "user token" in command(*arguments(mock, "--user", "you")).sentence
    refused = command(*arguments(mock, "--user", "me", "--task", "open_the_drawer"))
    assert refused.status == 1
    assert "job 1 was given up: Task 'open_the_drawer' is for arx5, but the policy drives aloha." in refused.out


def test_a_wrong_fault_is_said(command: Command) -> None:
    assert (
        "no fault 'melt' at 'state'" in command("robochallenge", "mock", "--port", 0, "--fault", "state:melt").sentence
    )
    with pytest.raises(ValueError, match="expected ENDPOINT:FAULT or"):
        run_mock(["--port", "0", "--fault", "state:drop:often"])


def test_a_port_that_cannot_be_had_is_said(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"Port {port} of 127.0.0.1: Address" in command("robochallenge", "mock", "--port", port).sentence
    assert "port must be 0-65535" in command("robochallenge", "mock", "--port", 80_000).sentence

"""`visuomotor play`: the world, the policy and the page are put together."""

import re
import socket
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.cli.conftest import Command
from visuomotor.apps.live.play import Play


def test_the_page_is_served_while_the_world_runs(
    command: Command, line_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []

    def run(play: Play) -> None:
        said = capfd.readouterr().out
        (address,) = re.findall(r"http://127\.0\.0\.1:\d+/", said)
        with urlopen(address) as answer:
            seen.append(answer.read().decode())
        play._new_scene()
        play.command({"do": "instruct", "text": "go to the left"})
        play._obey(0.0)
        play._advance()
        seen.append(f"{play.steps} {play.status}")

    monkeypatch.setattr(Play, "run", run)
    answer = command("play", line_checkpoint, "--env", "line", "--port", 0, "--preview", 0)
    assert answer.status == 0, answer.error
    assert "<title>visuomotor live</title>" in seen[0]
    assert seen[1] == "1 moving"


def test_what_does_not_fit_is_said(command: Command, line_checkpoint: Path, tmp_path: Path) -> None:
    other = command("play", line_checkpoint, "--port", 0).sentence
    assert "The robot is for embodiment 'tabletop_arm' but" in other
    assert "preview -1.0 s" in command("play", line_checkpoint, "--env", "line", "--preview", -1).sentence
    (tmp_path / "limits.json").write_text('{"step": 1}')
    limits = command("play", line_checkpoint, "--env", "line", "--safety-limits", tmp_path / "limits.json").sentence
    assert "holds no safety limits" in limits
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "address already in use" in command("play", line_checkpoint, "--env", "line", "--port", port).sentence


def test_a_checkpoint_drives_the_robot_of_the_world(
    command: Command, line_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path, embodiment: Any = None, **settings: Any) -> Any:
        raise ValueError(f"asked for {embodiment.name}")

    monkeypatch.setattr("visuomotor.policy.load_policy", load)
    assert command("play", line_checkpoint, "--env", "line", "--port", 0).sentence.endswith("asked for point")

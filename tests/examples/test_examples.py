"""The examples run: a simulated robot and a driver of one's own, over a real connection to a real server."""

import ast
import json
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation import fake_world
from tests.serving.fakes import background
from visuomotor.contract import ActionChunk, Observation
from visuomotor.session import Session
from visuomotor.simulation import interface

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> Any:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Listening:
    """Goes where the words say, a little further than the robot's limits allow."""

    embodiment = fake_world.EMBODIMENT

    def infer(
        self,
        observations: Sequence[Observation],
        sessions: Sequence[Session | None] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> list[ActionChunk]:
        steps = [0.25 if "right" in o.instruction else -0.25 for o in observations]
        return [ActionChunk(actions=np.full((8, 1), step, np.float32), embodiment=self.embodiment) for step in steps]


class Driver:
    """A robot that remembers what it was told."""

    made: "list[Driver]" = []  # noqa: RUF012

    def __init__(self) -> None:
        self.x, self.held, self.closed, self.sent = np.float32(0), 0, 0, list[np.ndarray]()
        Driver.made.append(self)

    def state(self) -> np.ndarray:
        return np.array([self.x])

    def images(self) -> dict[str, np.ndarray]:
        return {name: np.zeros((32, 32, 3), np.uint8) for name in ("top", "hand")}

    def act(self, command: np.ndarray) -> None:
        self.sent.append(command)
        self.x += command[0]

    def hold(self) -> None:
        self.held += 1

    def close(self) -> None:
        self.closed += 1


class Failing(Driver):
    """Its hardware fails after five commands."""

    def act(self, command: np.ndarray) -> None:
        super().act(command)
        if len(self.sent) == 5:
            raise OSError("the bus is gone")


def test_a_simulated_robot_over_a_connection(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(interface.WORLDS, "line", "tests.evaluation.fake_world")
    with background(Listening(), vla_eval_port=None) as server:  # type: ignore[arg-type]
        there = ["--server", server.addresses["openpi"], "--env", "line", "--episodes", "2", "--steps", "40"]
        assert example("simulated_robot").main(there) == 2
    said = capsys.readouterr().out
    assert "go to the left" in said
    assert "go to the right" in said
    assert "2 of 2 succeeded" in said


def test_a_driver_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    with background(Listening(), vla_eval_port=None) as server:  # type: ignore[arg-type]
        there = ["--server", server.addresses["openpi"]]
        assert example("real_robot").main([*there, "--describe"]) == 0
        described = json.loads(capsys.readouterr().out)
        assert described["embodiment"] == json.loads(json.dumps(fake_world.EMBODIMENT.to_json()))
        mine = ["--driver", f"{__name__}:Driver", "--instruction", "right", "--steps", "12", "--step-length", "0.05"]
        assert example("real_robot").main([*there, *mine]) == 0
    robot = Driver.made[-1]
    assert (robot.held, robot.closed) == (1, 1)
    assert len(robot.sent) == 12
    assert max(float(command[0]) for command in robot.sent) == pytest.approx(0.05)
    assert "12 steps" in capsys.readouterr().out


def test_the_robot_is_held_whatever_goes_wrong() -> None:
    with background(Listening(), vla_eval_port=None) as server:  # type: ignore[arg-type]
        mine = ["--server", server.addresses["openpi"], "--driver", f"{__name__}:Failing", "--instruction", "right"]
        with pytest.raises(OSError, match="the bus is gone"):
            example("real_robot").main(mine)
    robot = Driver.made[-1]
    assert (robot.held, robot.closed) == (1, 1)
    with pytest.raises(SystemExit, match="MODULE:CLASS"):
        example("real_robot").find_driver("my_robot")


def test_the_real_robots_example_needs_the_client_alone_and_python_3_9() -> None:
    tree = ast.parse((EXAMPLES / "real_robot.py").read_text(), feature_version=(3, 9))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {
        "__future__", "argparse", "importlib", "json", "numpy", "sys", "typing", "visuomotor_client",
    }  # fmt: skip

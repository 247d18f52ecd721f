"""A world and policies in files of their own: every verb takes them, without an edit inside the library."""

import json
import os
import shutil
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from visuomotor_client import connect

from tests.cli.conftest import Answer, Command, command
from visuomotor.apps.live.play import Play
from visuomotor.contract import EvalPlan
from visuomotor.data.lerobot import Dataset
from visuomotor.evaluation.results import Results
from visuomotor.evaluation.rollout import evaluate
from visuomotor.plugins import load
from visuomotor.recipes import find_recipe
from visuomotor.session import PolicyLike, own_policy
from visuomotor.simulation.interface import load_world

__all__ = ["command"]  # the fixture

HERE = Path(__file__).parent
ROOMS, BARE = f"{HERE}/rooms.py:WORLD", f"{HERE}/rooms.py:BARE"
SEEKER, SLOW = f"{HERE}/policies.py:SEEKER", f"{HERE}/policies.py:slow"


def succeeded(answer: Answer) -> None:
    assert answer.status == 0, answer.error


def rolled_out(folder: Path) -> dict[str, tuple[int, int]]:
    return {c.name: (c.rate.successes, c.rate.n) for c in Results.load(folder).conditions}


def test_collect(command: Command, tmp_path: Path) -> None:
    succeeded(command("collect", ROOMS, "--out", tmp_path / "data", "--episodes", 3, "--storage", "image"))
    data = Dataset(tmp_path / "data")
    assert [data.instruction(e) for e in range(3)] == [
        "go to the red tile",
        "go to the blue tile",
        "go to the red tile",
    ]
    assert data.require_embodiment().name == "disc"
    assert data.annotations(np.array([0]))[0].subtask == "cross to the red tile"
    run = find_recipe("cogact-nano")(world=ROOMS, data=str(tmp_path / "data"))
    assert (run.config.num_views, run.config.action_dim) == (1, 2)
    assert run.corpus == ("go to the blue tile", "go to the red tile")


@pytest.mark.parametrize("world", [ROOMS, BARE])
def test_evaluate(command: Command, tmp_path: Path, world: str) -> None:
    given = ("--environment", world, "--episodes", 6, "--control-episodes", 2, "--option", "near", 0.09)
    succeeded(command("eval", SEEKER, *given, "--out", tmp_path / "two", "--workers", 2))
    succeeded(command("eval", SEEKER, *given, "--out", tmp_path / "one", "--workers", 1))
    expected = {"train": (6, 6), "wrong_instruction": (0, 2), "black_cameras": (0, 2)}
    assert rolled_out(tmp_path / "two") == rolled_out(tmp_path / "one") == expected
    run = Results.load(tmp_path / "one").run
    assert (run["environment"], run["checkpoint"]) == (world, SEEKER)
    assert len(run["checkpoint_hash"]) == 16


def test_a_policy_of_settings(command: Command, tmp_path: Path) -> None:
    given = ("--environment", ROOMS, "--episodes", 2, "--control-episodes", 0, "--out", tmp_path / "eval")
    succeeded(command("eval", SLOW, *given, "--max-steps", 5))
    assert rolled_out(tmp_path / "eval") == {"train": (0, 2)}
    succeeded(command("eval", SLOW, *given, "--max-steps", 5, "--policy", "pace", 0.1, "--overwrite"))
    assert rolled_out(tmp_path / "eval") == {"train": (2, 2)}


def test_another_policy_in_the_same_file_name_is_not_resumed(command: Command, tmp_path: Path) -> None:
    for name in ("rooms.py", "policies.py"):
        shutil.copy(HERE / name, tmp_path)
    policy = f"{tmp_path}/policies.py:SEEKER"
    given = ("--environment", ROOMS, "--episodes", 2, "--control-episodes", 0, "--out", tmp_path / "eval")
    succeeded(command("eval", policy, *given))
    (tmp_path / "policies.py").write_text((tmp_path / "policies.py").read_text() + "\nPACE = 3\n")
    assert "another checkpoint hash" in command("eval", policy, *given, "--resume").sentence


@pytest.mark.parametrize("world", [ROOMS, BARE])
def test_play(command: Command, monkeypatch: pytest.MonkeyPatch, world: str) -> None:
    frames: list[dict[str, Any]] = []

    def run(play: Play) -> None:
        play.publish = frames.append
        play._new_scene()
        play.command({"do": "instruct", "text": "go to the blue tile"})
        play._obey(0.0)
        play._advance()

    monkeypatch.setattr(Play, "run", run)
    succeeded(command("play", SEEKER, "--env", world, "--port", 0, "--preview", 0, "--speed", 100))
    assert (frames[-1]["step"], frames[-1]["status"], frames[-1]["chunk"]["text"]) == (1, "moving", {"subtask": "seek"})
    assert f"No checkpoint comes with the world {world}" in command("play", "--env", world).sentence


def test_serve(command: Command) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    chunks: list[np.ndarray] = []

    def drive() -> None:
        picture = np.full((32, 32, 3), 90, np.uint8)
        picture[4:9, 20:25] = (230, 40, 40)
        message = {"images/ceiling": picture, "state": np.full(2, 0.5), "prompt": "go to the red tile"}
        try:
            with connect(f"ws://127.0.0.1:{port}", attempts=12) as policy:
                chunks.append(policy.infer(message)["actions"])
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    client = threading.Thread(target=drive)
    given = ("--policy", "pace", 0.05, "--openpi-port", port, "--vla-eval-port", "None")
    assert "The policy raised StopIteration" in command("serve", SLOW, *given).sentence  # of the words "warm up"
    client.start()
    succeeded(command("serve", SLOW, *given, "--instruction", "go to the red tile"))
    client.join(20)
    assert chunks[0].shape == (8, 2)
    np.testing.assert_allclose(chunks[0][0], (0.05, -0.05), atol=1e-6)


def test_study_of_executors(command: Command, tmp_path: Path) -> None:
    given = ("--environment", BARE, "--tasks", "--executors", "temporal_ensemble", "--latencies", 0, "--episodes", 4)
    succeeded(command("study", "execution", SEEKER, *given, "--out", tmp_path, "--workers", 1))
    results = json.loads((tmp_path / "execution.json").read_text())["results"]
    assert [result["executor"] for result in results] == ["receding_horizon", "temporal_ensemble"]
    assert all(result["rate"]["successes"] == 4 for result in results)


def test_a_study_in_a_file(command: Command, tmp_path: Path) -> None:
    own = f"{HERE}/policies.py:STUDY"
    said = command("study", own, "--data", tmp_path, "--arms", "seeng").sentence
    assert "Study 'mine' has no arm 'seeng'. Did you mean 'seeing'?" in said
    assert "a study must be of type Study" in command("study", SEEKER, "--data", tmp_path).sentence


def test_demo(command: Command, tmp_path: Path) -> None:
    sizes = ("--stages.train.steps", 2, "--stages.train.batch-size", 4, "--stages.train.validate-every", 0)
    given = ("--episodes", 2, "--control-episodes", 0, "--workers", 1, "--out", tmp_path)
    succeeded(command("demo", "--world", ROOMS, *given, *sizes))
    assert rolled_out(tmp_path / "eval")["train"][1] == 2
    assert (tmp_path / "report.html").exists()
    assert "has one size of demo" in command("demo", "--world", ROOMS, "--full").sentence


def test_what_a_benchmark_lacks_is_refused(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "data"
    said = command("collect", BARE, "--out", out).sentence
    assert "World 'rooms' has no demonstrator, so no demonstrations can be collected in it" in said
    assert "no shuffle and no annotator" in command("collect", BARE, "--out", out, "--scenes", 5).sentence
    assert "has no demonstrator" in command("demo", "--world", BARE, "--out", out).sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("policy", "world", "message"),
    [
        (SEEKER, f"{HERE}/room.py:WORLD", "There is no file"),
        (SEEKER, f"{HERE}/rooms.py:WROLD", "has no 'WROLD'. Did you mean 'WORLD'?"),
        (SEEKER, f"{HERE}/rooms.py:Rooms", "is the class Rooms, but a world must be of type WorldSpec"),
        (SEEKER, f"{HERE}/rooms.py", "does not say which object is a world"),
        (f"{HERE}/policies.py:SEEKR", ROOMS, "has no 'SEEKR'. Did you mean 'SEEKER'?"),
        (f"{HERE}/policies.py:SIDE", ROOMS, "is of type int, but a policy must be of type PolicyLike or function or"),
        (f"{HERE}/policies.py:nothing", ROOMS, "made a NoneType; a policy has `embodiment` and `infer`"),
        (SEEKER, "tabletop", "but environment 'tabletop' is for"),
    ],
)
def test_refusals(command: Command, tmp_path: Path, policy: str, world: str, message: str) -> None:
    assert message in command("eval", policy, "--environment", world, "--out", tmp_path / "eval").sentence


def test_settings_that_a_policy_does_not_take(command: Command, tmp_path: Path) -> None:
    given = ("--environment", ROOMS, "--out", tmp_path / "eval")
    assert "takes no settings; got pace" in command("eval", SEEKER, *given, "--policy", "pace", 1).sentence
    said = command("eval", SLOW, *given, "--policy", "paec", 1).sentence
    assert "cannot be called so: got an unexpected keyword argument 'paec'. It takes (pace: float = 0.02)" in said
    assert "no held-out wording" in command("eval", SEEKER, *given, "--wording", "heldout").sentence
    assert "no option 'nera'. Did you mean 'near'?" in command("eval", SEEKER, *given, "--option", "nera", 1).sentence


def test_objects_in_python(tmp_path: Path) -> None:
    plan, bare = EvalPlan(environment="rooms", episodes=2, control_episodes=0), load_world(BARE)
    policy = load(SEEKER, PolicyLike, "a policy")
    assert evaluate(policy, plan, tmp_path / "a", world=bare, videos=0)["train"].rate.successes == 2
    with pytest.raises(ValueError, match=r"lambda.*or give a world as FILE.py:NAME"):
        evaluate(policy, plan, tmp_path / "b", world=load_world(ROOMS), videos=0)


def test_a_class_gets_the_world_s_robot() -> None:
    robot = load_world("tabletop").robot
    assert own_policy(f"{HERE}/policies.py:Seeker", robot).embodiment is robot
    assert own_policy(f"{HERE}/policies.py:Seeker").embodiment.name == "disc"

"""The command line itself: help, verbs, the data commands on a collected data set, options of recipes."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import TRAIN, Command
from visuomotor.cli.data import COMMANDS
from visuomotor.cli.main import VERBS, main, sentence
from visuomotor.cli.train import pairs, recipe_arguments
from visuomotor.data.lerobot import Dataset
from visuomotor.models import MODELS
from visuomotor.recipes import find_recipe


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("collected") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules["visuomotor.simulation.interface"].WORLDS, "reach", "tests.simulation.fake_world")
        assert main(["collect", "reach", "--out", str(out), "--episodes", "3", "--workers", "1"]) == 0
    return out


def test_help_is_quick() -> None:
    installed = Path(sys.executable).with_name("visuomotor")
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        answer = subprocess.run([installed, "--help"], capture_output=True, text=True, check=True)
        seconds.append(time.perf_counter() - began)
    assert all(verb in answer.stdout for verb in VERBS)
    assert min(seconds) < 0.5, "a heavy import has crept in"


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from visuomotor.cli.main import main; main(['--help']); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("torch", "numpy", "tyro", "rich", "pyarrow") if f"'{name}'" in loaded]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_every_verb_is_explained(command: Command, verb: str) -> None:
    if verb == "data":
        for name in COMMANDS:
            helped = command("data", name, "--help").out
            assert helped.startswith(f"usage: visuomotor data {name} [-h] ")
            assert "The data set's folder" in helped
        return
    answer = command(verb, "--help")
    assert answer.status == 0
    assert answer.out.startswith(f"usage: visuomotor {verb} ")
    assert "{None}" not in answer.out


def test_version_and_no_arguments(command: Command) -> None:
    assert command("--version").out.strip()[0].isdigit()
    assert "usage: visuomotor VERB" in command().out
    assert "usage: visuomotor data COMMAND DIR" in command("data").out


def test_data_commands_on_a_collected_data_set(command: Command, collected: Path, tmp_path: Path) -> None:
    facts = json.loads(command("data", "info", collected, "--json").out)
    data = Dataset(collected)
    assert (facts["episodes"], facts["frames"], facts["robot"]) == (3, data.num_frames, "fake_point")
    assert facts["hash"] in command("data", "info", collected).out
    stats = json.loads(command("data", "stats", collected, "--json").out)
    assert stats["action"]["max"] == pytest.approx(data.columns["action"].max(0).tolist())
    table = command("data", "stats", collected).out
    assert "delta.x" in table
    assert "…" not in table, "a number is cut"
    doctor = json.loads(command("data", "doctor", collected, "--json").out)
    assert all(finding["remedy"] for finding in doctor)
    labelled = command("data", "labels", collected, "--covers", "phases").out
    assert all(signal in labelled for signal in ("gripper", "contact", "speed", "proximity"))
    assert labelled.count(" %") == 2 * 4  # of two tasks
    for name in ("sheet.png", "film.mp4"):
        assert command("data", "view", collected, "--episode", 1, "--out", tmp_path / name).status == 0
        assert (tmp_path / name).stat().st_size > 500
    assert "must end in .png" in command("data", "view", collected, "--out", tmp_path / "x.gif").sentence
    assert "has episodes 0 to 2, not 7" in command("data", "view", collected, "--episode", 7).sentence


def test_a_corrected_draft_is_what_is_accepted(command: Command, arm: Path) -> None:
    (arm / "embodiment.json").unlink()
    first = command("data", "embodiment", arm)
    assert "which value is open?" in first.out
    draft = arm / "embodiment.draft.json"
    draft.write_text(draft.read_text().replace('"arm"', '"my_arm"', 1))
    assert command("data", "embodiment", arm, "--accept").status == 0
    robot = Dataset(arm).require_embodiment()
    assert (robot.name, robot.action_dim) == ("my_arm", 6)
    draft.write_text("{")
    (arm / "embodiment.json").unlink()
    assert f"{draft} is not an embodiment description" in command("data", "embodiment", arm, "--accept").sentence


def test_info_and_model(command: Command) -> None:
    info = json.loads(command("info", "--json").out)
    assert info["packages"]["torch"]
    assert "mujoco" in command("info").out
    assert "roofline time" in command("model", "dm0", "--size", "nano").out
    base = json.loads(command("model", "dexvla", "--size", "base-L", "--json").out)
    assert base["parameters"]["head"] == 462_632_462


@pytest.mark.parametrize("name", MODELS)
def test_the_cost_of_every_model(command: Command, name: str) -> None:
    nano = json.loads(command("model", name, "--size", "nano", "--training", "--json").out)
    assert nano["total_parameters"] == sum(nano["parameters"].values())
    acting = {"router", "gripper_model"}  # one of two heads is run, and a nano router is small
    assert {row["part"] for row in nano["sample"]} | acting >= nano["parameters"].keys() - {"embed"}
    assert nano["roofline_ms"] == pytest.approx(sum(part["roofline_ms"] for part in nano["sample"]))
    held = {(row["learns"], row["checkpoint_activations"]): row["total"] for row in nano["training_memory"]}
    plain = [total for (_, again), total in held.items() if not again]
    assert plain == sorted(plain, reverse=True)
    assert held["everything", True] < held["everything", False]


def test_the_list_of_recipes(command: Command) -> None:
    listed = command("train", "list").out
    assert all(name in listed for name in ("tabletop-nano", "own-data", "finetune"))


def test_recipe_arguments_and_fields_are_set(command: Command, recorded: Path, tmp_path: Path) -> None:
    answer = command(
        "train", "own-data", "--data", recorded, "--out", tmp_path / "run", "--steps", 2, *TRAIN,
        "--stages.train.weight-decay=0.5",
    )  # fmt: skip
    assert answer.status == 0, answer.error
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    stage = run["stages"]["train"]
    assert (stage["steps"], stage["weight_decay"], run["config"]["horizon"]) == (2, 0.5, 4)
    assert f"checkpoint: {tmp_path / 'run' / 'checkpoints' / 'step-000002'}" in answer.out


def test_a_new_robot_keeps_the_weights(command: Command, recorded: Path, arm_checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in recorded.iterdir():
        (other / path.name).symlink_to(path)
    robot = json.loads((recorded / "embodiment.json").read_text())
    (other / "embodiment.json").unlink()
    (other / "embodiment.json").write_text(json.dumps(robot | {"name": "another_arm", "control_hz": 5.0}))
    arguments = ("train", "finetune", "--data", other, "--from", arm_checkpoint, "--out", tmp_path / "run")
    arguments += ("--steps", 1, "--batch-size", 4, "--threads", 1)
    assert "control rate 5.0 Hz against 10.0 Hz" in command(*arguments).sentence
    answer = command(*arguments, "--new-robot", "true")
    assert answer.status == 0, answer.error
    report = json.loads((tmp_path / "run" / "transplant.json").read_text())["train"]
    assert report["loaded"]
    assert not report["missing"] + report["unexpected"]
    saved = json.loads((tmp_path / "run" / "checkpoints" / "step-000001" / "embodiment.json").read_text())
    assert saved["name"] == "another_arm"


def test_pairs() -> None:
    assert pairs(["--a.b", "3", "--c=4=5", "--d", "-1"]) == {"a.b": "3", "c": "4=5", "d": "-1"}
    with pytest.raises(ValueError, match="--x needs a value"):
        pairs(["--x"])
    with pytest.raises(ValueError, match="unexpected argument 'x'"):
        pairs(["x"])


def test_recipe_arguments_are_typed_by_the_recipe() -> None:
    recipe = find_recipe("own-data")
    arguments, fields = recipe_arguments(recipe, {"image-size": "48", "minutes": "none", "stages.train.ema": "0.9"})
    assert arguments == {"image_size": 48, "minutes": None}
    assert fields == {"stages.train.ema": "0.9"}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("two\n  lines"), "two lines"),
        (OSError("ours"), "ours"),
        (OSError(28, "No space left on device", "x/y"), "the disk of x/y is full."),
        (OSError(28, "The disk of x is full after 3 episodes"), "The disk of x is full after 3 episodes"),
        (PermissionError(13, "Permission denied", "x/y"), "x/y: Permission denied."),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_errors_are_said_in_one_line(error: Any, said: str) -> None:
    assert sentence(error).startswith(said)
    assert "\n" not in sentence(error)


def test_training_keeps_to_omp_num_threads(
    command: Command, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr("visuomotor.training.trainer.torch.set_num_threads", used.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    own = TRAIN[: TRAIN.index("--threads")]
    arguments = ("train", "own-data", "--data", recorded, "--steps", 1, *own)
    assert command(*arguments, "--out", tmp_path / "a").status == 0
    assert command(*arguments, "--out", tmp_path / "b", "--threads", 2).status == 0
    assert used[0] == 3
    assert 2 in used

"""A format of one's own trains, resumes and is inspected without an edit inside the library."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import TRAIN, Command
from tests.strangers import csv_jpeg
from visuomotor.data.sources import open_source
from visuomotor.policy import load_policy
from visuomotor.recipes import find_recipe
from visuomotor.training.trainer import train

FORMAT = f"{csv_jpeg.__file__}:Recordings"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"{FORMAT}:{csv_jpeg.write(tmp_path_factory.mktemp('strangers') / 'recordings')}"


def test_it_is_short() -> None:
    assert len(Path(csv_jpeg.__file__).read_text().splitlines()) <= 150


def test_train_and_resume_on_the_command_line(command: Command, data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    answer = command("train", "own-data", "--data", data, "--out", out, "--steps", "2", *TRAIN)
    assert answer.status == 0, answer.error
    policy = load_policy(out / "checkpoints" / "step-000002")
    assert policy.embodiment.name == "two-joint"
    words = policy.processor.tokenizer
    assert len(words.encode("begin to put the cup on the shelf")) < 20  # learnt from the data's sentences
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/text" in entry for entry in entries)
    more = command("train", "own-data", "--data", data, "--out", out, "--steps", "2", "--resume", *TRAIN)
    assert more.status == 0, more.error
    tuned = tmp_path / "tuned"
    answer = command(
        "train", "finetune", "--data", data, "--from", out, "--out", tuned, "--steps", "1", "--threads", "1"
    )
    assert answer.status == 0, answer.error


def test_train_in_python(data: str, tmp_path: Path) -> None:
    plan = find_recipe("own-data")(data=data, steps=1, batch_size=2, image_size=24, horizon=4)
    assert train(plan, tmp_path / "run", threads=1).is_dir()
    assert plan.stages["train"].mixture.sources[0].path == data


def test_the_data_verbs_read_it(command: Command, data: str, tmp_path: Path) -> None:
    facts = json.loads(command("data", "info", data, "--json").out)
    assert (facts["robot"], facts["episodes"], facts["frames"]) == ("two-joint", 3, 36)
    assert facts["annotations"] == ["subtask"]
    assert facts["hash"] == open_source(data).hash()
    assert json.loads(command("data", "stats", data, "--json").out)["action"]["count"] == 36
    assert command("data", "doctor", data).status == 0
    assert command("data", "view", data, "--out", tmp_path / "sheet.png").status == 0
    assert command("data", "labels", data).status == 0
    draft = tmp_path / "draft.json"
    assert command("data", "embodiment", data, "--out", draft).status == 0
    assert json.loads(draft.read_text())["name"] == "unknown_robot"
    refused = command("data", "annotate", data, "--out", tmp_path / "copy")
    assert refused.status != 0
    assert "no LeRobot v3 folder" in refused.sentence


def test_a_picture_that_is_missing_is_a_finding_and_a_bad_sample(command: Command, tmp_path: Path) -> None:
    folder = csv_jpeg.write(tmp_path / "data")
    for path in folder.glob("episode-001/front-*.jpg"):
        path.unlink()
    name = f"{FORMAT}:{folder}"
    doctor = command("data", "doctor", name)
    assert doctor.status == 1
    assert "front-0000.jpg" in doctor.out
    stopped = command("train", "own-data", "--data", name, "--out", tmp_path / "run", "--steps", "8", *TRAIN)
    assert "Bad sample in source 'robot'" in stopped.sentence
    assert "episode-001" in stopped.sentence

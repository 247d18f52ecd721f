"""What the command line answers to bad input: one sentence with what, where and what to do; nothing written is lost."""

import errno
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import TINY, TRAIN, Command
from visuomotor.data.lerobot import Dataset
from visuomotor.data.lerobot.layout import DATA_PATH
from visuomotor.evaluation.results import read_records

TABLE = DATA_PATH.format(chunk_index=0, file_index=0)
VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def spoil_action(root: Path, row: int) -> None:
    table = pq.read_table(root / TABLE)
    values = table["action"].to_pylist()
    values[row][0] = float("nan")
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", pa.array(values, table["action"].type)), root / TABLE)


def train(command: Command, data: Path, out: Path, *more: object) -> Any:
    return command("train", "own-data", "--data", data, "--out", out, "--steps", 4, *TRAIN, *more)


def checkpoints(out: Path) -> list[str]:
    return sorted(p.name for p in (out / "checkpoints").iterdir())


def test_truncated_parquet(command: Command, arm: Path, tmp_path: Path) -> None:
    cut(arm / TABLE)
    for answer in (command("data", "info", arm), train(command, arm, tmp_path / "run")):
        assert answer.sentence.startswith("visuomotor ")
        assert f"{arm / TABLE}: is not a readable Parquet file" in answer.sentence
        assert "copy it again" in answer.sentence
        assert len(answer.error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_truncated_video(command: Command, arm: Path, tmp_path: Path) -> None:
    cut(arm / VIDEO)
    answer = train(command, arm, tmp_path / "run")
    assert f"{arm / VIDEO}" in answer.sentence
    assert re.search(r"row (\d+) \(episode \d, frame \d+\)", answer.sentence)
    assert "is not a readable video" in answer.sentence
    assert "cut off: copy it again" in answer.sentence
    found = command("data", "doctor", arm)
    assert found.status == 1
    assert VIDEO in found.out
    assert "Traceback" not in found.error


def test_nan_in_an_action_stops_by_default(command: Command, arm: Path, tmp_path: Path) -> None:
    spoil_action(arm, 47)
    answer = train(command, arm, tmp_path / "run")
    assert "action dimension 0 ('position.x') is nan in row 47 of data set" in answer.sentence
    assert str(arm) in answer.sentence
    assert "--bad-samples quarantine" in answer.sentence
    found = command("data", "doctor", arm)
    assert found.status == 1
    assert "47" in found.out


def test_nan_in_an_action_is_quarantined_when_told(command: Command, arm: Path, tmp_path: Path) -> None:
    spoil_action(arm, 47)
    out = tmp_path / "run"
    answer = train(command, arm, out, "--bad-samples", "quarantine", "--batch-size", 32)
    assert answer.status == 0, answer.error
    entries = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert entries
    assert all(44 <= entry["row"] <= 47 and "is nan" in entry["error"] for entry in entries)
    assert f"{len(entries)} bad samples were left out; {out / 'quarantine.jsonl'} lists them." in answer.out
    assert checkpoints(out) == ["step-000004"]


def test_unreadable_frames_met_while_training_cost_nothing_that_was_trained(
    command: Command, arm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert train(command, arm, out, "--stages.train.checkpoint-every", 2).status == 0
    before = (out / "checkpoints" / "step-000004" / "model.safetensors").read_bytes()
    cut(arm / VIDEO, 0.3)
    answer = command(
        "train", "finetune", "--data", arm, "--from", out / "checkpoints" / "step-000004",
        "--out", tmp_path / "more", "--steps", 3, "--batch-size", 4, "--threads", 1,
    )  # fmt: skip
    assert VIDEO in answer.sentence
    assert (out / "checkpoints" / "step-000004" / "model.safetensors").read_bytes() == before


def test_unknown_recipe(command: Command, arm: Path) -> None:
    answer = command("train", "own-date", "--data", arm)
    assert "There is no recipe 'own-date'. Did you mean 'own-data'?" in answer.sentence
    assert "metaworld-pairs" in answer.sentence


def test_unknown_field(command: Command, arm: Path, tmp_path: Path) -> None:
    answer = train(command, arm, tmp_path / "run", "--stages.train.stepps", 3)
    assert "--stages.train.stepps: there is no 'stepps' here. Did you mean 'stages.train.steps'?" in answer.sentence
    answer = train(command, arm, tmp_path / "run", "--setps", 3)
    assert "there is no option --setps. Did you mean 'steps'?" in answer.sentence
    answer = train(command, arm, tmp_path / "run", "--stages.train.steps", "many")
    assert "--stages.train.steps is 'many'; expected a whole number." in answer.sentence
    assert not (tmp_path / "run").exists()


def test_unknown_verb_command_and_world(command: Command, line_checkpoint: Path, tmp_path: Path) -> None:
    assert "unknown verb 'trian'. Did you mean 'train'?" in command("trian").sentence
    assert "unknown command 'inof'. Did you mean 'info'?" in command("data", "inof", tmp_path).sentence
    assert (
        "Unknown world 'lime'. Did you mean 'line'?"
        in command("eval", line_checkpoint, "--environment", "lime", "--out", tmp_path / "eval").sentence
    )
    assert (
        "Unknown world 'raech'. Did you mean 'reach'?" in command("collect", "raech", "--out", tmp_path / "d").sentence
    )


def test_a_camera_that_the_model_wants_and_the_data_lacks(command: Command, arm: Path, tmp_path: Path) -> None:
    answer = train(command, arm, tmp_path / "run", "--processor.image-roles", "scene,wrist")
    assert "'wrist'" in answer.sentence
    assert "optional_roles" in answer.sentence
    robot = json.loads((arm / "embodiment.json").read_text())
    robot["cameras"][0]["name"] = "ceiling"
    (arm / "embodiment.json").write_text(json.dumps(robot))
    answer = train(command, arm, tmp_path / "run")
    assert f"{arm} has no camera 'ceiling'; it has front" in answer.sentence


def test_a_checkpoint_for_another_embodiment(
    command: Command, recorded: Path, line_checkpoint: Path, arm_checkpoint: Path, tmp_path: Path
) -> None:
    answer = command("train", "finetune", "--data", recorded, "--from", line_checkpoint, "--out", tmp_path / "run")
    assert (
        f"Data set {recorded} is for embodiment 'arm' but checkpoint {line_checkpoint} is for 'point'"
        in answer.sentence
    )
    assert "--new-robot true" in answer.sentence
    run = line_checkpoint.parents[1]
    again = command("train", "finetune", "--data", recorded, "--from", run, "--out", tmp_path / "run")
    assert again.sentence == answer.sentence  # a training's folder stands for its newest checkpoint
    answer = command("eval", arm_checkpoint, "--environment", "line", "--out", tmp_path / "eval")
    assert "for embodiment 'arm'" in answer.sentence
    assert "environment 'line' is for 'point'" in answer.sentence
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "eval").exists()


def test_a_new_robot_needs_room_in_the_model(
    command: Command, recorded: Path, line_checkpoint: Path, tmp_path: Path
) -> None:
    answer = command(
        "train",
        "finetune",
        "--data",
        recorded,
        "--from",
        line_checkpoint,
        "--new-robot",
        "true",
        "--out",
        tmp_path / "r",
    )
    assert "has 6 action dimensions, but checkpoint" in answer.sentence
    assert "has room for 1" in answer.sentence


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "processor.json", "tokenizer.json", "embodiment.json"]
)
def test_a_checkpoint_that_is_cut_off(
    command: Command, line_checkpoint: Path, recorded: Path, tmp_path: Path, name: str
) -> None:
    broken = shutil.copytree(line_checkpoint, tmp_path / "step-000001")
    cut(broken / name)
    answer = command("eval", broken, "--environment", "line", "--out", tmp_path / "eval")
    assert str(broken / name) in answer.sentence
    assert len(answer.error.strip().splitlines()) == 1
    (broken / name).unlink()
    answer = command("eval", broken, "--environment", "line", "--out", tmp_path / "eval")
    assert f"{name} missing" in answer.sentence


def test_a_cut_off_checkpoint_is_no_start(
    command: Command, arm_checkpoint: Path, recorded: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(arm_checkpoint, tmp_path / "step-000001")
    cut(broken / "model.safetensors")
    answer = command("train", "finetune", "--data", recorded, "--from", broken, "--out", tmp_path / "run")
    assert f"{broken / 'model.safetensors'} is damaged or truncated" in answer.sentence


def test_refusal_to_overwrite(command: Command, recorded: Path, line_checkpoint: Path, tmp_path: Path) -> None:
    run, rolled, data = tmp_path / "run", tmp_path / "eval", tmp_path / "data"
    trained = line_checkpoint.parents[1]
    for again in (
        ("train", "own-data", "--data", recorded, "--out", run, "--steps", 1, *TRAIN),
        ("eval", trained, "--environment", "line", "--out", rolled, "--episodes", 2, "--control-episodes", 0),
        ("collect", "reach", "--out", data, "--episodes", 2, "--workers", 1),
    ):
        first = command(*again)
        assert first.status == 0, first.error
        written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
        sentence = command(*again).sentence
        assert "--resume" in sentence
        assert "--overwrite" in sentence
        assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == written
        assert command(*again, "--overwrite").status == 0
    command("data", "embodiment", recorded, "--out", tmp_path / "robot.json")
    answer = command("data", "embodiment", recorded, "--out", tmp_path / "robot.json")
    assert f"{tmp_path / 'robot.json'} exists" in answer.sentence


def test_a_run_that_failed_before_its_start_needs_no_overwrite(command: Command, arm: Path, tmp_path: Path) -> None:
    assert train(command, arm, tmp_path / "run", "--config.noise-draws", 0).status == 1
    assert train(command, arm, tmp_path / "run", "--processor.image-roles", "wrist").status == 1
    assert train(command, arm, tmp_path / "run").status == 0


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_while_training(
    command: Command, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    assert train(command, recorded, out).status == 0
    with monkeypatch.context() as full:
        full.setattr("visuomotor.training.checkpoint.save_file", no_space)
        answer = train(command, recorded, tmp_path / "other", "--stages.train.checkpoint-every", 2)
        assert "No space left on device" in answer.sentence
        assert f"{tmp_path / 'other' / 'state'}" in answer.sentence
        assert "free space" in answer.sentence
    assert checkpoints(out) == ["step-000004"]
    resumed = train(command, recorded, tmp_path / "other", "--stages.train.checkpoint-every", 2, "--resume")
    assert resumed.status == 0, resumed.error
    weights = [(p / "checkpoints/step-000004/model.safetensors").read_bytes() for p in (out, tmp_path / "other")]
    assert weights[0] == weights[1]


def full_for(name: str) -> Any:
    """Path.open on a disk that is full for files of this name."""
    original = Path.open

    def opened(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if path.name == name and mode != "r":
            no_space()
        return original(path, mode, *more, **named)

    return opened


def test_full_disk_while_metrics_are_written(
    command: Command, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--stages.train.log-every", 3, "--stages.train.checkpoint-every", 2)
    with monkeypatch.context() as full:
        full.setattr(Path, "open", full_for("metrics.jsonl"))
        answer = train(command, recorded, tmp_path / "run", *arguments)
    assert f"Could not write {tmp_path / 'run' / 'metrics.jsonl'}: No space left on device" in answer.sentence
    assert checkpoints(tmp_path / "run") == ["step-000002"]
    assert train(command, recorded, tmp_path / "run", *arguments, "--resume").status == 0


def test_full_disk_while_collecting(command: Command, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    arguments = ("collect", "reach", "--out", tmp_path / "data", "--episodes", 4, "--workers", 1)
    trouble = ("--option", "trouble", f"full:{flag}")
    answer = command(*arguments, *trouble)
    assert f"The disk of {tmp_path} is full: make room." in answer.sentence
    assert "3 finished attempts are kept" in answer.sentence
    flag.unlink()
    resumed = command(*arguments, *trouble, "--resume")
    assert resumed.status == 0, resumed.error
    assert Dataset(tmp_path / "data").num_episodes == 4


def test_full_disk_while_evaluating(
    command: Command, line_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("eval", line_checkpoint, "--environment", "line", "--out", tmp_path / "eval", "--episodes", 4)
    arguments += ("--control-episodes", 0, "--workers", 1)
    with monkeypatch.context() as full:
        full.setattr("visuomotor.evaluation.rollout.append_record", no_space)
        assert f"The disk of {tmp_path / 'eval'} is full." in command(*arguments).sentence
    resumed = command(*arguments, "--resume")
    assert resumed.status == 0, resumed.error


def test_a_worker_killed_while_collecting(command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    arguments = ("collect", "reach", "--episodes", 4, "--workers", 2, "--option", "trouble")
    once = command(*arguments, f"once:{flag}", "--out", tmp_path / "once")
    assert once.status == 0, once.error
    assert "A worker process died (exit code -9) in scenario 3" in caplog.text
    assert Dataset(tmp_path / "once").num_episodes == 4
    flag.touch()
    always = command(*arguments, f"always:{flag}", "--out", tmp_path / "always")
    assert "A worker process died (exit code -9) in scenario 3" in always.sentence
    assert "as one did before" in always.sentence
    assert "--resume" in always.sentence
    flag.unlink()
    assert command(*arguments, f"always:{flag}", "--out", tmp_path / "always", "--resume").status == 0
    assert Dataset(tmp_path / "always").num_episodes == 4


def test_a_worker_killed_while_evaluating(
    command: Command, line_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = command(
        "eval", line_checkpoint, "--environment", "line", "--out", tmp_path / "eval", "--episodes", 4,
        "--control-episodes", 0, "--workers", 1, "--seed", 100_000, "--option", "crash_file", tmp_path / "crashed",
    )  # fmt: skip
    assert answer.status == 0, answer.error
    assert "A rollout worker died (exit code -9)" in caplog.text
    assert (tmp_path / "crashed").exists()
    records = read_records(tmp_path / "eval" / "results.jsonl")
    assert len(records) == 4
    assert max(record.attempts for record in records) == 2
    assert not any(record.error for record in records)


def test_a_data_set_without_embodiment_says_how_to_make_one(command: Command, arm: Path, tmp_path: Path) -> None:
    (arm / "embodiment.json").unlink()
    assert f"visuomotor data embodiment {arm}" in train(command, arm, tmp_path / "run").sentence
    (arm / "embodiment.json").write_text('{"name": "arm"}')
    assert (
        f"{arm / 'embodiment.json'} is not an embodiment description" in train(command, arm, tmp_path / "run").sentence
    )


def test_what_is_no_data_set_and_no_checkpoint(command: Command, tmp_path: Path) -> None:
    assert f"{tmp_path} is not a LeRobot data set" in command("data", "info", tmp_path).sentence
    assert f"{tmp_path} is not a whole checkpoint" in command("eval", tmp_path).sentence
    assert "recipe 'finetune' needs --data DATA and --from CHECKPOINT." in command("train", "finetune").sentence


def test_an_option_given_wrongly_is_no_traceback(command: Command) -> None:
    for arguments in (("collect", "--episodes", "many", "--out", "x"), ("eval",), ("model", "dm0", "--size", "nanno")):
        answer = command(*arguments, *(TINY if arguments[0] == "train" else ()))
        assert answer.status != 0
        assert "Traceback" not in answer.out + answer.error
    assert "Did you mean 'nano'?" in command("model", "dm0", "--size", "nanno").sentence


def test_questions_on_data_that_cannot_be_asked(
    command: Command, arm: Path, arm_checkpoint: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "answers")
    assert "has no annotation 'boxes'" in command("eval-text", arm_checkpoint, "--data", arm, *out).sentence
    talk = tmp_path / "talk.json"
    talk.write_text('[{"conversations": [{"fr')
    assert "talk.json is not JSON (cut off?)" in command("eval-text", arm_checkpoint, "--data", talk, *out).sentence
    talk.write_text('[{"id": 4, "conversations": []}]')
    answer = command("eval-text", arm_checkpoint, "--data", talk, "--validation", 1, *out)
    assert "record 1 (id 4) of" in answer.sentence
    assert "no list 'conversations'" in answer.sentence
    assert "validation is 2.0" in command("eval-text", arm_checkpoint, "--data", talk, "--validation", 2, *out).sentence
    answer = command("eval-text", arm_checkpoint, "--data", arm, "--kinds", "bx", 1, *out)
    assert "no kind of question 'bx'. Did you mean 'box'?" in answer.sentence
    assert not (tmp_path / "answers").exists()
    answer = train(command, arm, tmp_path / "run", "--conversations", tmp_path / "none.json")
    assert "none.json cannot be read" in answer.sentence
    assert "boxes" in command("data", "conversations", arm, "--out", tmp_path / "made").sentence

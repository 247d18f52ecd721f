import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.recording import ARM, FPS, FRAMES, component, episode, write
from visuomotor.cli.data import run
from visuomotor.contract import Camera, Episode
from visuomotor.data.doctor import Finding, doctor
from visuomotor.data.lerobot import Dataset, DatasetWriter


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "healthy").root


@pytest.fixture
def dataset(healthy) -> Dataset:
    return Dataset(healthy)


def only(found: list[Finding], severity: str, *words: str) -> Finding:
    """The one finding, which has the severity and says the words."""
    assert len(found) == 1, found
    text = " ".join([found[0].where, found[0].what, found[0].remedy])
    for word in words:
        assert word in text, text
    assert found[0].severity == severity, found
    return found[0]


def scaled(state: np.ndarray | float = 1.0, action: np.ndarray | float = 1.0):
    def change(e: Episode) -> Episode:
        return replace(e, state=(e.state * state).astype(np.float32), actions=(e.actions * action).astype(np.float32))

    return change


def test_a_healthy_recording_has_no_findings(dataset):
    assert doctor(dataset) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(dataset, value):
    dataset.columns["action"][FRAMES + 7, 0] = value
    dataset.columns["action"][FRAMES + 9, 1] = value
    only(doctor(dataset), "error", "action, episode 1 frame 7", "2 frames", "(episodes 1)", "quarantine")


def test_dead_dimensions(dataset):
    dataset.columns["observation.state"][:, 4] = 0.3
    only(doctor(dataset), "warning", "observation.state", "joints.j1 = 0.3")


def test_degrees_against_radians(dataset):
    dataset.columns["observation.state"][:, 3:5] *= 180 / np.pi
    dataset.columns["action"][:, 3:5] *= 180 / np.pi
    state, action = sorted(doctor(dataset), key=lambda f: f.where, reverse=True)
    only([state], "error", "observation.state, component 'joints'", "if these were degrees")
    only([action], "error", "action, component 'joints'", "if these were degrees")


def test_radians_against_degrees(tmp_path):
    robot = component(ARM, "state", "joints", unit="deg", low=(-180.0,) * 2, high=(180.0,) * 2)
    only(doctor(write(tmp_path / "d", robot=robot)), "warning", "state, component 'joints'", "if they were radians")


def test_millimetres_against_metres_by_the_limits(dataset):
    dataset.columns["observation.state"][:, :3] *= 1000
    only(doctor(dataset), "error", "component 'position'", "beyond the limits -1 to 1 m", "if these were millimetres")


def test_implausible_sizes_without_limits(tmp_path):
    robot = component(ARM, "state", "position", low=None, high=None)
    data = write(tmp_path / "d", scaled(state=np.array([1000] * 3 + [1] * 3)), robot)
    only(doctor(data), "error", "much for m", "if these were millimetres")


def test_commanded_and_measured_gripper_disagree(dataset):
    dataset.columns["action"][:, 5] *= -1
    only(doctor(dataset), "error", "says close, the measured gripper opens", "Swap opened and closed")


def test_gripper_that_opens_first(tmp_path):
    robot = component(ARM, "action", "gripper", opened=1.0, closed=-1.0)
    robot = component(robot, "state", "gripper", opened=0.0, closed=0.08)
    only(doctor(write(tmp_path / "d", robot=robot)), "warning", "5 of 5 episodes the gripper opens first")


def test_gripper_in_other_numbers(dataset):
    dataset.columns["action"][:, 5] = dataset.columns["action"][:, 5] / 2 + 0.5 + 0.1
    dataset.columns["action"][:, 5] *= 10
    found = only(doctor(dataset), "error", "from 1 to 11", "opened (-1) and closed (1)")
    assert "component 'gripper'" in found.where


def test_time_gap(dataset):
    dataset.columns["timestamp"][2 * FRAMES + 5 : 3 * FRAMES] += 0.5
    only(doctor(dataset), "error", "timestamp, episode 2 frame 5", "longer than 1/fps", "1 times", "0.6 s")


def test_time_runs_backwards(dataset):
    dataset.columns["timestamp"][8:FRAMES] -= 0.3
    only(doctor(dataset), "error", "episode 0 frame 8", "runs backwards")


def test_time_does_not_begin_at_zero(tmp_path):
    data = write(tmp_path / "d")
    data.columns["timestamp"] = (np.arange(data.num_frames) / FPS).astype(np.float32)
    only(doctor(data), "error", "episode 1 frame 0", "does not begin at time 0", "4 times")


@pytest.mark.parametrize(("speed", "words"), [(0.97, "-0.9 frames at frame 29 of 30 (0.97"), (1.05, "+1.5 frames")])
def test_time_drifts_by_steps_too_small_to_see(dataset, speed, words):
    dataset.columns["timestamp"] = (dataset.columns["timestamp"] * speed).astype(np.float32)
    drift = only(doctor(dataset), "warning", "timestamp, episode 0", "drift from frame_index / fps", words, "Set fps")
    assert "5 episodes of 5 drift" in drift.what


def test_time_that_drifts_by_less_than_half_a_frame(dataset):
    dataset.columns["timestamp"] = (dataset.columns["timestamp"] * 1.015).astype(np.float32)
    assert doctor(dataset) == []


def test_time_follows_frame_index(dataset):
    """Rows were cut off at the start: stamps and frame numbers begin at 5."""
    dataset.columns["frame_index"] = dataset.columns["frame_index"] + 5
    dataset.columns["timestamp"] = (dataset.columns["frame_index"] / FPS).astype(np.float32)
    assert doctor(dataset) == []


def test_missing_video(tmp_path):
    data = write(tmp_path / "d", storage="video")
    assert not [f for f in doctor(data) if f.severity == "error"]
    video = next(data.root.rglob("*.mp4"))
    video.unlink()
    only(doctor(Dataset(data.root)), "error", "camera 'front'", video.name, "pictures of 5 episodes")


def test_truncated_video(tmp_path):
    data = write(tmp_path / "d", storage="video")
    video = next(data.root.rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    only(doctor(Dataset(data.root)), "error", "camera 'front'", str(video), "Copy the file again")


def test_video_with_too_few_frames(tmp_path):
    data, one = write(tmp_path / "d", storage="video"), tmp_path / "one"
    with DatasetWriter(one, ARM, fps=FPS) as writer:
        writer.add(episode(0))
    next(data.root.rglob("*.mp4")).write_bytes(next(one.rglob("*.mp4")).read_bytes())
    words = (
        "its 30 frames end at 3 s",
        "150 rows, last until 15 s",
        "120 frames too few",
        "nothing shows where the loss was",
    )
    only(doctor(Dataset(data.root)), "error", "episodes 0, 1, 2, 3, 4", *words)


def test_black_camera(tmp_path):
    data = write(tmp_path / "d", lambda e: replace(e, images={"front": np.zeros_like(e.images["front"])}))
    only(doctor(data), "warning", "camera 'front'", "one flat colour", "5 of 5")


def test_frozen_camera(tmp_path):
    data = write(tmp_path / "d", lambda e: replace(e, images={"front": e.images["front"][:1].repeat(FRAMES, 0)}))
    only(doctor(data), "warning", "camera 'front'", "stood still")


def test_absolute_actions_described_as_steps(dataset):
    dataset.columns["action"][:, :3] = np.roll(dataset.columns["observation.state"][:, :3], -1, axis=0)
    convention = [f for f in doctor(dataset) if "reference" in f.what]
    only(convention, "error", "action, component 'position'", "look like reference 'absolute'", "says 'step'")


def test_steps_described_as_absolute(tmp_path):
    robot = component(ARM, "action", "position", reference="absolute")
    only(doctor(write(tmp_path / "d", robot=robot)), "error", "look like reference 'step'", "says 'absolute'")


def test_mirrored_axis(dataset):
    dataset.columns["action"][:, 1] *= -1
    only(doctor(dataset), "error", "y: the state moves against the action", "mirrored")


def test_no_embodiment(dataset):
    dataset.embodiment = None
    only(doctor(dataset), "error", "no embodiment.json", "visuomotor data embodiment")


def test_embodiment_of_another_width_camera_and_rate(dataset):
    wrist = Camera(name="wrist", role="wrist", height=8, width=8)
    dataset.embodiment = replace(ARM, cameras=(*ARM.cameras, wrist), action=ARM.action[:2], control_hz=20.0)
    width, camera, rate = doctor(dataset)
    only([width], "error", "action", "6 dimensions", "describes 5")
    only([camera], "error", "camera 'wrist'", "the data has front")
    only([rate], "warning", "10 frames a second", "20 Hz")


def test_missing_instruction(tmp_path):
    data = write(tmp_path / "d", lambda e: replace(e, instruction=""))
    only(doctor(data), "warning", "5 of 5 episodes have no instruction")


def test_command_line_prints_json_and_fails_on_errors(healthy, tmp_path, capsys):
    assert run(["doctor", str(healthy), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    robot = component(ARM, "action", "position", reference="absolute")
    assert run(["doctor", str(write(tmp_path / "d", robot=robot).root), "--json"]) == 1
    assert [f["severity"] for f in json.loads(capsys.readouterr().out)] == ["error"]

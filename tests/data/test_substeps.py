from pathlib import Path

import numpy as np
import pytest

from tests.data.recording import ARM, FPS, component, write
from visuomotor.cli.data import run
from visuomotor.contract import Episode
from visuomotor.data.doctor import doctor
from visuomotor.data.lerobot import Dataset
from visuomotor.data.lerobot.annotate import write_subtasks
from visuomotor.data.substeps import SubstepRule, substeps
from visuomotor.data.view import contact_sheet

RULE = SubstepRule(least_seconds=0.5, smooth_seconds=0.0)


def plan(closed: str, speed: str) -> tuple[np.ndarray, np.ndarray]:
    """A digit a frame: the gripper, and the speed."""
    return np.array([c == "1" for c in closed]), np.array([float(c) for c in speed])


def test_gripper_switches_and_pauses_divide() -> None:
    closed, speed = plan("000000000011111111110000000000", "999929999999999999999991999999")
    assert RULE.starts(closed, speed, FPS) == [0, 10, 20]  # pauses at 4 and 23 are too near to 0 and 20
    speed = plan("0" * 30, "999999919999990999999999999999")[1]
    assert RULE.starts(np.zeros(30, bool), speed, FPS) == [0, 7, 14]


def test_switches_go_before_pauses_and_deep_pauses_before_shallow_ones() -> None:
    closed, speed = plan("00000000001111111111", "99999999099999929199")
    assert RULE.starts(closed, speed, FPS) == [0, 10, 15]
    speed = plan("0" * 20, "99999999291999999999")[1]
    assert RULE.starts(np.zeros(20, bool), speed, FPS) == [0, 10]  # 8 is two frames from a deeper one


def test_slow_is_relative_to_the_episode_and_a_standstill_divides_in_its_middle() -> None:
    none = np.zeros(20, bool)
    assert RULE.starts(none, plan("", "99999999949999999999")[1], FPS) == [0]
    assert RULE.starts(none, plan("", "99999999000009999999")[1], FPS) == [0, 10]
    assert RULE.starts(none, np.zeros(20), FPS) == [0]


@pytest.mark.parametrize("seconds", [0.3, 0.7, 2.0])
def test_no_sub_step_is_shorter_than_the_least(seconds: float) -> None:
    rng = np.random.default_rng(0)
    for length in rng.integers(1, 60, 30):
        closed, speed = rng.random(length) > 0.5, rng.random(length)
        starts = SubstepRule(least_seconds=seconds).starts(closed, speed, FPS)
        assert starts[0] == 0
        lengths = np.diff([*starts, length])
        assert len(starts) == 1 or lengths.min() >= seconds * FPS


def gripped(recorded: Episode, closed: slice | None) -> Episode:
    """The episode at constant speed, the gripper closed for some frames."""
    frames = len(recorded.actions)
    recorded.actions[:, -1], recorded.state[:, :3] = -1.0, np.arange(frames)[:, None]
    if closed is not None:
        recorded.actions[closed, -1] = 1.0
    return recorded


@pytest.mark.parametrize(
    ("closed", "expected"),
    [
        (slice(10, 20), {0: "reach", 9: "reach", 10: "carry", 19: "carry", 20: "withdraw", 29: "withdraw"}),
        (slice(0, 30), {0: "move", 29: "move"}),
        (None, {0: "move", 29: "move"}),
        (slice(20, 30), {0: "reach", 29: "carry"}),
    ],
)
def test_sub_steps_are_named_by_the_gripper(tmp_path: Path, closed: slice, expected: dict[int, str]) -> None:
    dataset = write(tmp_path / "d", lambda e: gripped(e, closed))
    texts = substeps(dataset, SubstepRule())
    assert len(texts) == dataset.num_frames
    for start in (0, 30):
        named = {row: texts[start + row] for row in expected}
        assert named == {row: f"{name}: {dataset.instruction(start // 30)}" for row, name in expected.items()}


def test_parts_between_pauses_are_numbered(tmp_path: Path) -> None:
    def paused(recorded: Episode) -> Episode:
        recorded = gripped(recorded, slice(24, 30))
        recorded.state[11:14, :3] = recorded.state[10, :3]
        return recorded

    texts = substeps(write(tmp_path / "d", paused), SubstepRule(least_seconds=0.5))
    assert list(dict.fromkeys(t.partition(":")[0] for t in texts)) == ["reach, part 1", "reach, part 2", "carry"]


def test_what_has_no_speed_is_refused(tmp_path: Path) -> None:
    robot = component(component(ARM, "state", "position", kind="other"), "state", "joints", kind="other")
    with pytest.raises(ValueError, match="neither a position nor joints"):
        substeps(write(tmp_path / "d", robot=robot), SubstepRule())
    with pytest.raises(ValueError, match="least_seconds is 0"):
        SubstepRule(least_seconds=0)


@pytest.mark.parametrize("storage", ["image", "video"])
def test_the_copy_is_the_data_set_and_its_sub_tasks(tmp_path: Path, storage: str) -> None:
    plain = write(tmp_path / "d", storage=storage)
    texts = [f"step {row // 7}" for row in range(plain.num_frames)]
    copy = write_subtasks(plain, texts, tmp_path / "copy")
    rows = np.arange(copy.num_frames)
    assert [a.subtask for a in copy.annotations(rows) or ()] == texts
    assert not plain.has("subtask")
    for column, values in plain.columns.items():
        np.testing.assert_array_equal(copy.columns[column], values)
    np.testing.assert_array_equal(copy.frames("front", rows[::9]), plain.frames("front", rows[::9]))
    assert copy.instructions(rows) == plain.instructions(rows)
    assert copy.embodiment == plain.embodiment
    assert doctor(copy) == doctor(plain)
    with pytest.raises(ValueError, match="has sub-tasks already"):
        write_subtasks(copy, texts, tmp_path / "again")
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_subtasks(plain, texts, tmp_path / "copy")
    with pytest.raises(ValueError, match="2 sub-tasks came for 150 frames"):
        write_subtasks(plain, texts[:2], tmp_path / "short")
    assert not (tmp_path / "short").exists()


def test_the_verb_annotates_and_view_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "d", lambda e: gripped(e, slice(10, 20)))
    assert run(["annotate", str(tmp_path / "d"), "--out", str(tmp_path / "copy"), "--least-seconds", "0.5"]) == 0
    assert "3 to 3 sub-tasks an episode" in " ".join(capsys.readouterr().out.split())
    assert contact_sheet(Dataset(tmp_path / "copy"), 0, 2).size[0] > 0

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.data.lerobot.bent import FPS, Clip, Placed, write
from visuomotor.cli.data import run
from visuomotor.data.conventions import Finding
from visuomotor.data.lerobot import Dataset
from visuomotor.data.pictures import check_pictures


def findings(root: Path, *severities: str) -> list[Finding]:
    results = check_pictures(Dataset(root))
    assert [finding.severity for finding in results] == list(severities), results
    return results


def numbers(rows: int, lost_rows: Sequence[int] = ()) -> list[int]:
    return [row for row in range(rows) if row not in lost_rows]


def test_healthy(tmp_path: Path) -> None:
    findings(write(tmp_path / "set", [12, 0, 1, 9]))


def test_drift_is_a_warning_with_its_size(tmp_path: Path) -> None:
    stamps = np.tile(np.arange(20), 2) * 0.94 / FPS
    (finding,) = findings(write(tmp_path / "set", [20, 20], stamps=stamps), "warning")
    assert finding.where.startswith("camera 'front', ")
    assert finding.where.endswith("file-000.mp4, episodes 0, 1")
    assert "rows take frames by number. By time, 22 of 40 rows would take another frame or none" in finding.what
    assert "-1.1 frames at frame 19 of 20 (0.94 times as fast)" in finding.what
    assert "write frame_index / fps into timestamp" in finding.remedy


def test_lost_frames_are_one_error_not_one_for_each_episode(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [20, 20], Placed(clips=[Clip(numbers=numbers(40, [5]))]))
    (finding,) = findings(root, "error")
    assert "1 frame too few, and nothing shows where the loss was" in finding.what


def test_legal_frames_and_rates_are_notes(tmp_path: Path) -> None:
    unused = Placed(clips=[Clip(numbers=range(43))], begin=[0.3, 2.3], end=[2.3, 4.3])
    (finding,) = findings(write(tmp_path / "unused", [20, 20], unused), "note")
    assert finding.remedy == "Nothing needs to be done."
    (finding,) = findings(write(tmp_path / "fast", [20], Placed(clips=[Clip(numbers=range(60), rate=30)])), "note")
    assert "the video shows 30 frames a second, the data has 10" in finding.what


def test_a_video_in_many_files_is_one_finding(tmp_path: Path) -> None:
    placed = Placed(
        clips=[Clip(numbers=range(5 * v, 5 * v + 5), rate=20) for v in range(4)],
        files=range(4), begin=[0] * 4, end=[0.25] * 4,
    )  # fmt: skip
    (finding,) = findings(write(tmp_path / "set", [5] * 4, placed), "warning")
    assert finding.what.endswith("The same fault is in 3 more videos.")
    assert finding.where.endswith("episodes 0, 1, 2, 3")


def test_missing_video_is_reported_by_reading(tmp_path: Path) -> None:
    root = write(tmp_path / "set", [20, 20])
    next(root.rglob("*.mp4")).unlink()
    (finding,) = findings(root, "error")
    assert "pictures of 2 episodes cannot be had; the first error: is missing" in finding.what


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "set", [20], stamps=np.arange(20) * 0.94 / FPS)
    assert run(["doctor", str(root)]) == 1  # there is no embodiment
    out = capsys.readouterr().out
    assert "[warning] timestamp, episode 0: its timestamps drift from frame_index / fps, -1.1 frames" in out
    assert "rows take frames by number" in out

import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visuomotor.contract import Embodiment, Episode
from visuomotor.data.lerobot import Dataset, DatasetWriter

CopyOf = Callable[[str], Path]
TOLERANCE = (
    9.0  # mean absolute pixel difference of a tiny lossy frame; neighbouring frames differ by more on one channel
)


def joined(episodes: list[Episode], camera: str) -> np.ndarray:
    return np.concatenate([e.images[camera] for e in episodes])


def test_numbers_come_back_exactly(root: Path, episodes: list[Episode], embodiment: Embodiment) -> None:
    dataset = Dataset(root)
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (3, 35, 10.0)
    assert dataset.cameras == ("scene", "wrist")
    assert dataset.embodiment == dataset.require_embodiment() == embodiment
    np.testing.assert_array_equal(dataset.columns["observation.state"], np.concatenate([e.state for e in episodes]))
    np.testing.assert_array_equal(dataset.columns["action"], np.concatenate([e.actions for e in episodes]))
    np.testing.assert_array_equal(dataset.columns["index"], np.arange(35))
    np.testing.assert_array_equal(dataset.episode_of(np.arange(35)), dataset.columns["episode_index"])
    assert [dataset.episode_slice(e) for e in range(3)] == [slice(0, 12), slice(12, 21), slice(21, 35)]
    assert [dataset.instruction(e) for e in range(3)] == ["task 0", "task 1", "task 0"]
    assert dataset.info(2) == {"seed": 2, "success": True}
    assert dataset.image_size("scene") == (32, 32)
    assert dataset.check() == []


def test_frames_in_any_order_with_duplicates(root: Path, episodes: list[Episode]) -> None:
    dataset = Dataset(root)
    rows = np.array([34, 3, 3, 12, 11, 0, 20, 21, 5, 4, 34])
    for camera in dataset.cameras:
        truth = joined(episodes, camera)
        error = np.abs(dataset.frames(camera, rows).astype(float) - truth[rows])
        assert error.mean((1, 2, 3)).max() <= (0 if root.name == "png" else TOLERANCE)
        everything = dataset.frames(camera, np.arange(35))
        np.testing.assert_array_equal(dataset.frames(camera, rows), everything[rows])
        nearest = [np.abs(truth.astype(float) - frame).mean((1, 2, 3)).argmin() for frame in everything]
        assert nearest == list(range(35))
    assert dataset.frames("scene", np.array([], np.int64)).shape == (0, 32, 32, 3)


def test_windows_are_clamped_to_the_episode_and_marked(roots: dict[str, Path], episodes: list[Episode]) -> None:
    window, is_pad = Dataset(roots["h264"]).windows("action", np.array([10, 0, 20]), 4)
    assert window.dtype == np.float32
    assert is_pad.tolist() == [[False, False, True, True], [False] * 4, [False, True, True, True]]
    np.testing.assert_array_equal(window[0], episodes[0].actions[[10, 11, 11, 11]])
    np.testing.assert_array_equal(window[1], episodes[0].actions[:4])
    np.testing.assert_array_equal(window[2], episodes[1].actions[[8, 8, 8, 8]])


def test_annotations_come_back(root: Path, episodes: list[Episode]) -> None:
    dataset = Dataset(root)
    every = [a for e in episodes for a in e.annotations]
    rows = np.array([30, 0, 30, 15])
    found = dataset.annotations(rows)
    assert found is not None
    for row, annotation in zip(rows, found, strict=True):
        assert annotation.progress == pytest.approx(every[row].progress)
        for name in ("subtask", "boxes", "point", "gripper_switch", "contact"):
            assert getattr(annotation, name) == getattr(every[row], name)
    assert all(dataset.has(n) for n in ("subtask", "boxes", "trace", "progress", "contact"))
    assert not dataset.has("language")


def test_trace_is_made_of_later_frames_points(roots: dict[str, Path]) -> None:
    dataset = Dataset(roots["h264"])  # 10 Hz: a point each 0.2 s is every second frame
    first, last_but_one, last = dataset.traces("scene", np.array([0, 10, 11]))
    assert first.tolist() == [[20, 40], [40, 80], [60, 120], [80, 160], [100, 200]]
    assert last_but_one.tolist() == [[110, 220]]
    assert last.tolist() == []
    assert len(dataset.traces("wrist")) == 35


def test_stream_gives_each_row_once_in_an_order_of_the_seed(root: Path) -> None:
    dataset = Dataset(root)
    rows = np.arange(3, 33)

    def stream(seed: int, skip: int = 0) -> list[tuple[int, dict[str, np.ndarray]]]:
        return list(dataset.stream(np.random.default_rng(seed), rows=rows, chunk=4, buffer=10, skip=skip))

    once, again = stream(0), stream(0)
    order = [row for row, _ in once]
    assert sorted(order) == rows.tolist()
    assert order == [row for row, _ in again] != sorted(order)
    assert order != [row for row, _ in stream(1)]
    assert order[13:] == [row for row, _ in stream(0, skip=13)]
    for row, images in once[:5]:
        np.testing.assert_array_equal(images["wrist"], dataset.frames("wrist", np.array([row]))[0])


def test_pickled_and_threaded_reading_gives_the_same_frames(root: Path) -> None:
    dataset = Dataset(root)
    expected = dataset.frames("scene", np.arange(35))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset)).frames("scene", np.arange(35)), expected)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda r: dataset.frames("scene", np.arange(r, 35, 4)), range(4)))
    for start, part in enumerate(parts):
        np.testing.assert_array_equal(part, expected[start::4])


def test_hash_depends_on_the_data(copy_of: CopyOf) -> None:
    root = copy_of("h264")
    before = Dataset(root).hash()
    assert Dataset(root).hash() == before
    moved = root.rename(root.with_name("moved"))
    assert Dataset(moved).hash() == before
    path = moved / "embodiment.json"
    path.write_text(path.read_text().replace('"toy"', '"other"'))
    assert Dataset(moved).hash() != before


def test_unknown_camera_column_and_row_are_named(roots: dict[str, Path]) -> None:
    dataset = Dataset(roots["png"])
    with pytest.raises(ValueError, match=r"no camera 'front'; it has scene, wrist"):
        dataset.frames("front", np.array([0]))
    with pytest.raises(ValueError, match="no numeric column 'torque'"):
        dataset.windows("torque", np.array([0]), 2)
    with pytest.raises(IndexError, match="rows 0 to 34"):
        dataset.frames("scene", np.array([35]))
    with pytest.raises(IndexError, match="episodes 0 to 2"):
        dataset.instruction(3)


def test_missing_embodiment_is_an_error_only_when_needed(copy_of: CopyOf) -> None:
    root = copy_of("h264")
    (root / "embodiment.json").unlink()
    dataset = Dataset(root)
    assert dataset.embodiment is None
    with pytest.raises(FileNotFoundError, match="visuomotor data embodiment"):
        dataset.require_embodiment()


def make_foreign(root: Path) -> None:
    """Rearrange a data set as others write them: other camera keys, one file an episode, float64, extra dtypes."""
    info_path = root / "meta" / "info.json"
    info = json.loads(info_path.read_text())
    frames = pq.read_table(root / "data/chunk-000/file-000.parquet")
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    shutil.rmtree(root / "data")
    shutil.rmtree(root / "meta/episodes")
    (root / "embodiment.json").unlink()
    info["features"] = {
        k.replace("observation.images.scene", "observation.image"): v
        for k, v in info["features"].items()
        if not k.startswith("annotation.")
    }
    info["features"]["note"] = {"dtype": "language", "shape": [1], "names": None}
    info["features"]["action"]["dtype"] = "float64"
    info_path.write_text(json.dumps(info))
    (root / "videos/observation.images.scene").rename(root / "videos/observation.image")
    keep = [n for n in frames.column_names if not n.startswith("annotation.")]
    actions = pa.array([[float(v) for v in row] for row in frames["action"].to_pylist()], pa.list_(pa.float64()))
    frames = frames.select(keep).set_column(keep.index("action"), "action", actions)
    frames = frames.append_column("note", pa.array([[{"role": "user"}]] * frames.num_rows))
    start = 0
    for index, row in enumerate(episodes.to_pylist()):
        row = {k: v for k, v in row.items() if not k.startswith("stats/") and k != "info"}
        row = {k.replace("observation.images.scene", "observation.image"): v for k, v in row.items()}
        row |= {"data/chunk_index": index // 2, "data/file_index": index % 2}
        path = root / f"data/chunk-{index // 2:03d}/file-{index % 2:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(frames.slice(start, row["length"]), path, row_group_size=5)
        start += row["length"]
        path = root / f"meta/episodes/chunk-000/file-{index:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([row]), path)


def test_foreign_data_set(copy_of: CopyOf, episodes: list[Episode]) -> None:
    root = copy_of("h264")
    make_foreign(root)
    dataset = Dataset(root)
    assert dataset.cameras == ("observation.image", "wrist")
    assert dataset.columns["action"].dtype == np.float64
    np.testing.assert_array_equal(dataset.columns["action"], np.concatenate([e.actions for e in episodes]))
    assert dataset.annotations(np.array([0])) is None
    assert dataset.info(0) == {}
    assert dataset.instruction(1) == "task 1"
    error = np.abs(dataset.frames("observation.image", np.arange(35)).astype(float) - joined(episodes, "scene"))
    assert error.mean((1, 2, 3)).max() < TOLERANCE
    with pytest.raises(ValueError, match="no trace annotation"):
        dataset.traces("wrist")


def test_tasks_may_change_within_an_episode_or_be_missing(copy_of: CopyOf) -> None:
    root = copy_of("png")
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    changed = np.array(table["task_index"])
    changed[6:12] = 1
    place = table.column_names.index("task_index")
    pq.write_table(table.set_column(place, "task_index", pa.array(changed)), path)
    dataset = Dataset(root)
    assert dataset.instructions(np.array([5, 6])) == ["task 0", "task 1"]
    assert dataset.instruction(0, frame=6) == "task 1"
    (root / "meta/tasks.parquet").unlink()
    assert Dataset(root).instruction(1) == "task 1"


def test_one_dimensional_state_and_action_stay_vectors(tmp_path: Path, embodiment: Embodiment) -> None:
    single = replace(embodiment, cameras=(), state=embodiment.action[1:], action=embodiment.action[1:])
    values = np.arange(5, dtype=np.float32)[:, None]
    with DatasetWriter(tmp_path / "set", single, fps=12.5) as writer:
        writer.add(Episode(instruction="go", state=values, actions=values + 1, images={}))
    dataset = Dataset(tmp_path / "set")
    assert dataset.fps == 12.5
    assert dataset.columns["action"].shape == (5, 1)
    np.testing.assert_array_equal(dataset.windows("action", np.array([3]), 2)[0][0], [[4.0], [5.0]])
    assert dataset.columns["timestamp"][1] == np.float32(0.08)

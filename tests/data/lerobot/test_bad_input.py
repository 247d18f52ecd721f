"""Damaged data sets: each gives one sentence with the file, the place and what to do."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visuomotor.data.lerobot import DataError, Dataset

CopyOf = Callable[[str], Path]
DATA = "data/chunk-000/file-000.parquet"
VIDEO = "videos/observation.images.scene/chunk-000/file-000.mp4"


def cut(path: Path, share: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def edit_info(root: Path, **changes: Any) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_column(root: Path, column: str, edit: Callable[[list[Any]], None]) -> None:
    table = pq.read_table(root / DATA)
    values = table[column].to_pylist()
    edit(values)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values, table[column].type)), root / DATA)


@pytest.mark.parametrize("name", [DATA, "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"])
def test_truncated_parquet(copy_of: CopyOf, name: str) -> None:
    root = copy_of("h264")
    cut(root / name)
    with pytest.raises(DataError, match=rf"{name}: is not a readable Parquet file .* copy it again") as caught:
        Dataset(root)
    assert caught.value.path == root / name
    assert caught.value.row is None


def test_missing_tables(copy_of: CopyOf) -> None:
    root = copy_of("png")
    (root / DATA).unlink()
    with pytest.raises(DataError, match=f"{DATA}: is missing"):
        Dataset(root)
    shutil.rmtree(root / "meta/episodes")
    with pytest.raises(DataError, match="holds no Parquet file with the episodes"):
        Dataset(root)
    with pytest.raises(DataError, match="is not a LeRobot data set"):
        Dataset(root / "data")


@pytest.mark.parametrize("storage", ["h264", "av1"])
def test_truncated_video(copy_of: CopyOf, storage: str) -> None:
    root = copy_of(storage)
    cut(root / VIDEO)  # the index lies at the end, so nothing can be read
    dataset = Dataset(root)
    with pytest.raises(DataError, match=r"file-000.mp4 \(episode 1, frame 2\): is not a readable video") as caught:
        dataset.frames("scene", np.array([14, 30]))
    assert (caught.value.row, caught.value.episode, caught.value.frame) == (14, 1, 2)
    assert len(dataset.frames("wrist", np.array([14]))) == 1


def with_index_first(path: Path) -> None:
    """Rewrite an mp4 with its index at the start, as lerobot does."""
    moved = path.with_suffix(".moved.mp4")
    with av.open(str(path)) as source, av.open(str(moved), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    moved.rename(path)


def read_singly(dataset: Dataset, rows: np.ndarray, intact: np.ndarray) -> dict[int, DataError]:
    """Errors by row; the frames that can be read must equal those of the intact file."""
    errors = {}
    for row in rows.tolist():
        try:
            frame = dataset.frames("scene", np.array([row]))[0]
        except DataError as error:
            errors[row] = error
        else:
            np.testing.assert_array_equal(frame, intact[row])
    return errors


@pytest.mark.parametrize("storage", ["h264", "av1"])
def test_video_that_ends_early_spoils_only_its_last_frames(copy_of: CopyOf, storage: str) -> None:
    root = copy_of(storage)
    with_index_first(root / VIDEO)
    intact = Dataset(root).frames("scene", np.arange(35))
    cut(root / VIDEO, 0.8)
    dataset = Dataset(root)
    errors = read_singly(dataset, np.arange(35), intact)
    rows = sorted(errors)
    assert 0 < len(rows) < 30
    assert rows == list(range(rows[0], 35))
    assert all("Copy the video again" in str(error) for error in errors.values())
    with pytest.raises(DataError) as caught:
        dataset.frames("scene", np.arange(35))
    assert caught.value.row == rows[0]


@pytest.mark.parametrize("storage", ["h264", "av1"])
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_damaged_frame_is_named_and_its_neighbours_are_read(copy_of: CopyOf, storage: str, share: float) -> None:
    root = copy_of(storage)
    intact = Dataset(root).frames("scene", np.arange(35))
    with av.open(str(root / VIDEO)) as container:
        entry = list(container.streams.video[0].index_entries)[16]  # key frames: 12, 14, 16, ...
        begin, end = entry.pos + 4 + int(share * (entry.size - 4)), entry.pos + entry.size
    content = bytearray((root / VIDEO).read_bytes())
    content[begin:end] = bytes(end - begin)
    (root / VIDEO).write_bytes(content)
    dataset = Dataset(root)
    for order in (np.arange(12, 21), np.arange(20, 11, -1)):
        errors = read_singly(dataset, order, intact)
        assert set(errors) == {16, 17}  # 17 is made from 16
        assert (errors[17].row, errors[17].episode, errors[17].frame) == (17, 1, 5)
        assert "cannot be decoded" in str(errors[16])
    good = np.array([14, 15, 18, 19])
    np.testing.assert_array_equal(dataset.frames("scene", good), intact[good])


def test_missing_video(copy_of: CopyOf) -> None:
    root = copy_of("av1")
    (root / VIDEO).unlink()
    dataset = Dataset(root)
    with pytest.raises(DataError, match=r"file-000.mp4 \(episode 2, frame 0\): is missing"):
        dataset.frames("scene", np.array([21]))
    assert [(e.episode, e.path) for e in dataset.check()] == [(i, root / VIDEO) for i in range(3)]


def test_nan_in_an_action_is_named_where_it_is_used(copy_of: CopyOf) -> None:
    root = copy_of("h264")

    def spoil(values: list[Any]) -> None:
        values[15] = [0.0, float("nan"), 1.0]

    edit_column(root, "action", spoil)
    dataset = Dataset(root)
    assert dataset.windows("action", np.array([11, 16]), 4)[0].shape == (2, 4, 3)
    with pytest.raises(DataError, match=r"file-000.parquet \(episode 1, frame 3\): action is not finite") as caught:
        dataset.windows("action", np.array([16, 13]), 4)
    assert caught.value.row == 13  # the sample; its window reaches the bad frame
    assert [e.row for e in dataset.check()] == [15]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.row) == (str(caught.value), 13)


def test_undecodable_png(copy_of: CopyOf) -> None:
    root = copy_of("png")

    def spoil(values: list[Any]) -> None:
        values[20] = {"bytes": values[20]["bytes"][:60], "path": None}
        values[21] = {"bytes": None, "path": "lost.png"}

    edit_column(root, "observation.images.wrist", spoil)
    dataset = Dataset(root)
    for row, place in ((20, "episode 1, frame 8"), (21, "episode 2, frame 0")):
        with pytest.raises(DataError, match=rf"\({place}\): the image .*wrist cannot be decoded") as caught:
            dataset.frames("wrist", np.array([5, row]))
        assert caught.value.row == row
    assert len(dataset.frames("wrist", np.array([19, 22]))) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"total_frames": 40}, "says 40 frames, meta/episodes adds up to 35 and data/ holds 35"),
        ({"total_episodes": 4}, "says 4 episodes, but meta/episodes lists 3"),
        ({"codebase_version": "v2.1"}, "convert_dataset_v21_to_v30"),
        ({"codebase_version": "v2.0"}, r"bring it to v2.1 first"),
        ({"fps": None}, "cannot be read as a v3.0 info.json"),
    ],
)
def test_info_that_disagrees(copy_of: CopyOf, changes: dict[str, Any], message: str) -> None:
    root = copy_of("png")
    edit_info(root, **changes)
    with pytest.raises(DataError, match=rf"info.json: .*{message}"):
        Dataset(root)


def test_features_that_disagree(copy_of: CopyOf) -> None:
    root = copy_of("png")
    features = json.loads((root / "meta/info.json").read_text())["features"]
    edit_info(root, features=features | {"torque": {"dtype": "float32", "shape": [2], "names": None}})
    with pytest.raises(DataError, match=r"lacks \['torque'\]"):
        Dataset(root)
    features["action"]["shape"] = [5]
    edit_info(root, features=features)
    with pytest.raises(DataError, match=r"column action has 105 float values in 35 rows, .* shape \[5\]"):
        Dataset(root)


def test_frames_of_another_episode(copy_of: CopyOf) -> None:
    root = copy_of("h264")
    edit_column(root, "episode_index", lambda values: values.__setitem__(13, 2))
    with pytest.raises(DataError, match="row 13 belongs to episode 2, but meta/episodes expects episode 1"):
        Dataset(root)


def test_info_json_cut_off(copy_of: CopyOf) -> None:
    root = copy_of("h264")
    cut(root / "meta/info.json")
    with pytest.raises(DataError, match=r"info.json: cannot be read"):
        Dataset(root)

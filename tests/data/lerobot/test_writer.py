import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.data.lerobot.fakes import FPS, make_episode, make_images
from visuomotor.contract import Embodiment, Episode
from visuomotor.data.lerobot import Dataset, DatasetWriter, encode_video, layout, writer
from visuomotor.locks import FolderInUse

VIDEO = "videos/observation.images.scene/chunk-000/file-000.mp4"


def test_files_of_the_format_are_there_and_readable_by_others(root: Path) -> None:
    names = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    expected = {
        "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet",
        "data/chunk-000/file-000.parquet", "embodiment.json",
    }  # fmt: skip
    if root.name != "png":
        expected |= {VIDEO, VIDEO.replace("scene", "wrist")}
    assert names == expected
    umask = os.umask(0)
    os.umask(umask)
    assert {oct((root / n).stat().st_mode & 0o777) for n in names} == {oct(0o666 & ~umask)}
    assert not list(root.parent.glob(f".{root.name}*"))


def test_info_says_what_lerobot_expects(roots: dict[str, Path]) -> None:
    info = json.loads((roots["h264"] / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"], info["fps"]) == (3, 35, 2, 10)
    assert info["splits"] == {"train": "0:3"}
    assert info["features"]["action"] == {
        "dtype": "float32", "shape": [3], "names": ["arm.x", "arm.y", "wheel.speed"],
    }  # fmt: skip
    video = info["features"]["observation.images.scene"]
    assert (video["dtype"], video["shape"]) == ("video", [32, 32, 3])
    assert (video["info"]["video.codec"], video["info"]["video.pix_fmt"]) == ("h264", "yuv420p")
    assert info["features"]["annotation.subtask"] == {"dtype": "string", "shape": [1], "names": None}
    assert json.loads((roots["av1"] / "meta/info.json").read_text())["features"]["observation.images.scene"]["info"][
        "video.codec"
    ] == "av1"  # fmt: skip


def test_tasks_are_the_index_for_pandas(roots: dict[str, Path]) -> None:
    tasks = pd.read_parquet(roots["png"] / "meta/tasks.parquet")
    assert tasks.index.tolist() == ["task 0", "task 1"]
    assert tasks.loc["task 1", "task_index"] == 1


def test_statistics_are_exact_over_all_frames(root: Path, episodes: list[Episode]) -> None:
    stats = json.loads((root / "meta/stats.json").read_text())
    actions = np.concatenate([e.actions for e in episodes]).astype(np.float64)
    for name, q in (("q01", 0.01), ("q10", 0.1), ("q50", 0.5), ("q90", 0.9), ("q99", 0.99)):
        np.testing.assert_allclose(stats["action"][name], np.quantile(actions, q, axis=0))
    np.testing.assert_allclose(stats["action"]["std"], actions.std(0))
    assert stats["action"]["count"] == [35]
    assert np.shape(stats["observation.images.scene"]["mean"]) == (3, 1, 1)
    assert stats["observation.images.scene"]["count"] == [10 + 9 + 10]
    row = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()[1]
    np.testing.assert_allclose(row["stats/action/q99"], np.quantile(episodes[1].actions.astype(float), 0.99, axis=0))


def test_many_episodes_share_a_video_with_a_key_frame_every_second_frame(roots: dict[str, Path]) -> None:
    rows = pq.read_table(roots["h264"] / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    key = "videos/observation.images.scene/"
    assert [(r[key + "from_timestamp"], r[key + "to_timestamp"]) for r in rows] == [(0.0, 1.2), (1.2, 2.1), (2.1, 3.5)]
    assert {r[key + "file_index"] for r in rows} == {0}
    with av.open(str(roots["h264"] / VIDEO)) as container:
        stream = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.size]
        assert [float((p.pts or 0) * stream.time_base * FPS) for p in packets] == list(range(35))
        starts = [i for i, p in enumerate(packets) if p.is_keyframe]
    assert starts == [*range(0, 12, 2), *range(12, 21, 2), *range(21, 35, 2)]


def test_files_are_split_at_their_size_limits(
    tmp_path: Path, embodiment: Embodiment, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATA_FILE_MB", "VIDEO_FILE_MB"):
        monkeypatch.setattr(layout, name, 0)
    monkeypatch.setattr(layout, "CHUNK_FILES", 2)
    with DatasetWriter(tmp_path / "set", embodiment, fps=FPS) as made:
        for episode in episodes:
            made.add(episode)
    names = ["chunk-000/file-000", "chunk-000/file-001", "chunk-001/file-000"]
    for folder, ending in (("data", "parquet"), ("videos/observation.images.wrist", "mp4")):
        found = sorted(str(p.relative_to(tmp_path / "set" / folder)) for p in (tmp_path / "set" / folder).rglob("*.*"))
        assert found == [f"{n}.{ending}" for n in names]
    dataset = Dataset(tmp_path / "set")
    np.testing.assert_array_equal(dataset.columns["action"], np.concatenate([e.actions for e in episodes]))
    truth = np.concatenate([e.images["scene"] for e in episodes]).astype(float)
    rows = np.array([30, 2, 15])
    assert np.abs(dataset.frames("scene", rows) - truth[rows]).mean() < 9


def test_episodes_encoded_elsewhere_are_joined(tmp_path: Path, embodiment: Embodiment, episodes: list[Episode]) -> None:
    with DatasetWriter(tmp_path / "set", embodiment, fps=FPS) as made:
        for index, episode in enumerate(episodes):
            paths = {camera: tmp_path / f"{camera}-{index}.mp4" for camera in episode.images}
            for camera, path in paths.items():
                encode_video(path, episode.images[camera], fps=FPS)
            made.add(replace(episode, images={}), videos=paths)
    with DatasetWriter(tmp_path / "direct", embodiment, fps=FPS) as made:
        for episode in episodes:
            made.add(episode)
    rows = np.arange(35)
    joined, direct = Dataset(tmp_path / "set"), Dataset(tmp_path / "direct")
    np.testing.assert_array_equal(joined.frames("scene", rows), direct.frames("scene", rows))
    mean = [
        json.loads((d.root / "meta/stats.json").read_text())["observation.images.scene"]["mean"]
        for d in (joined, direct)
    ]
    np.testing.assert_allclose(*mean, atol=0.02)


@pytest.mark.parametrize(
    ("length", "fps", "codec", "message"),
    [(11, FPS, "libx264", "11 frames"), (12, 25, "libx264", "at 25 a second"), (12, FPS, "b-frames", "B-frames")],
)
def test_a_foreign_episode_video_is_refused(
    tmp_path: Path, embodiment: Embodiment, episodes: list[Episode], length: int, fps: int, codec: str, message: str
) -> None:
    path = tmp_path / "episode.mp4"
    if codec == "b-frames":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options={"bf": "2", "g": "12"})
            stream.width = stream.height = 32
            for image in episodes[0].images["scene"]:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            container.mux(stream.encode())
    else:
        encode_video(path, episodes[0].images["scene"][:length], fps=fps)
    with DatasetWriter(tmp_path / "set", embodiment, fps=FPS) as made:
        with pytest.raises(ValueError, match=message):
            made.add(episodes[0], videos={"scene": path})
        made.add(episodes[1])  # the refused episode left nothing behind
    assert Dataset(tmp_path / "set").num_frames == 9


def wrong(**changes: Any) -> Any:
    return lambda episode: replace(episode, **{k: v(getattr(episode, k)) for k, v in changes.items()})


def with_nan(actions: np.ndarray) -> np.ndarray:
    actions = actions.copy()
    actions[7, 1] = np.nan
    return actions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong(actions=with_nan), "actions of frame 7 is not finite"),
        (wrong(actions=lambda a: a[:, :2]), r"actions has shape \[12, 2\]"),
        (wrong(state=lambda s: s[:-1]), r"state has shape \[11, 2\]"),
        (wrong(images=lambda i: {"scene": i["scene"]}), r"has cameras \['scene'\]"),
        (wrong(images=lambda i: {k: v[:-1] for k, v in i.items()}), r"expected uint8\[12, h, w, 3\]"),
        (wrong(images=lambda i: {k: v.astype(float) for k, v in i.items()}), "expected uint8"),
        (wrong(images=lambda i: {k: v[:, :31] for k, v in i.items()}), "even height and width"),
        (wrong(images=lambda i: {k: np.repeat(v, 2, 1) for k, v in i.items()}), "differs from the earlier ones in obs"),
        (wrong(annotations=lambda a: a[:5]), "5 annotations for 12 frames"),
        (wrong(annotations=lambda a: ()), "differs from the earlier ones in annotation.boxes"),
        (wrong(state=lambda s: s[:0], actions=lambda a: a[:0]), "no frames"),
        (wrong(info=lambda i: {"bad": {1, 2}}), "info must be JSON"),
    ],
)
def test_a_refused_episode_leaves_the_data_set_as_it_was(
    tmp_path: Path, embodiment: Embodiment, episodes: list[Episode], change: Any, message: str
) -> None:
    with DatasetWriter(tmp_path / "set", embodiment, fps=FPS) as made:
        made.add(episodes[0])
        with pytest.raises(ValueError, match=message):
            made.add(change(make_episode(0, 12)))
        made.add(episodes[1])
    dataset = Dataset(tmp_path / "set")
    assert (dataset.num_episodes, dataset.num_frames) == (2, 21)
    assert dataset.check() == []
    assert len(dataset.frames("wrist", np.arange(21))) == 21


def test_an_interrupted_writer_leaves_no_data_set(
    tmp_path: Path, embodiment: Embodiment, episodes: list[Episode]
) -> None:
    root = tmp_path / "set"
    abandoned = DatasetWriter(root, embodiment, fps=FPS)
    abandoned.add(episodes[0])
    assert not root.exists()
    for overwrite in (False, True):
        with pytest.raises(FolderInUse, match="in use by this thread of this process"):
            DatasetWriter(root, embodiment, fps=FPS, overwrite=overwrite)
    del abandoned  # neither closed nor discarded, as after a kill
    with DatasetWriter(root, embodiment, fps=FPS) as made:
        made.add(episodes[1])
        assert not root.exists()
    assert Dataset(root).num_frames == 9
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_an_exception_inside_discards(tmp_path: Path, embodiment: Embodiment, episodes: list[Episode]) -> None:
    def interrupted() -> None:
        with DatasetWriter(tmp_path / "set", embodiment, fps=FPS) as made:
            made.add(episodes[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_discards_what_was_half_written(
    tmp_path: Path, embodiment: Embodiment, episodes: list[Episode], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    made = DatasetWriter(tmp_path / "set", embodiment, fps=FPS)
    made.add(episodes[0])
    monkeypatch.setattr(writer.FrameTable, "write", full)
    with pytest.raises(OSError, match=r"is full after 1 episodes, so .* was not written. Free some space"):
        made.add(episodes[1])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="already closed"):
        made.add(episodes[1])


def test_overwriting_must_be_asked_for(tmp_path: Path, embodiment: Embodiment, episodes: list[Episode]) -> None:
    root = tmp_path / "set"
    with DatasetWriter(root, embodiment, fps=FPS) as made:
        made.add(episodes[0])
    with pytest.raises(FileExistsError, match="overwrite=True"):
        DatasetWriter(root, embodiment, fps=FPS)
    unfinished = DatasetWriter(root, embodiment, fps=FPS, overwrite=True)
    unfinished.add(episodes[1])
    assert Dataset(root).num_frames == 12  # the old one is kept until the new one is complete
    unfinished.discard()
    with DatasetWriter(root, embodiment, fps=FPS, overwrite=True) as made:
        made.add(episodes[1])
    assert Dataset(root).num_frames == 9
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="not a LeRobot data set"):
        DatasetWriter(home, embodiment, fps=FPS, overwrite=True)


def test_a_data_set_needs_an_episode(tmp_path: Path, embodiment: Embodiment) -> None:
    with pytest.raises(ValueError, match="Nothing was added"), DatasetWriter(tmp_path / "set", embodiment, fps=FPS):
        pass
    assert list(tmp_path.iterdir()) == []


def test_stored_embodiment_has_the_size_of_the_stored_images(tmp_path: Path, embodiment: Embodiment) -> None:
    images = {name: make_images(0, 4, side=48) for name in ("scene", "wrist")}
    episode = Episode(instruction="go", state=np.zeros((4, 2)), actions=np.zeros((4, 3)), images=images)
    with DatasetWriter(tmp_path / "set", embodiment, fps=FPS) as made:
        made.add(episode)
    assert {(c.height, c.width) for c in Dataset(tmp_path / "set").require_embodiment().cameras} == {(48, 48)}

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from visuomotor.data.lerobot import DataError, Dataset, cache

CopyOf = Callable[[str], Path]
ROWS = np.array([34, 3, 3, 12])


def test_cached_frames_equal_decoded_ones(root: Path, tmp_path: Path) -> None:
    dataset = Dataset(root)
    cached = dataset.cached(None, tmp_path)
    for camera in dataset.cameras:
        np.testing.assert_array_equal(cached.frames(camera, ROWS), dataset.frames(camera, ROWS))
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(cached)).frames("scene", ROWS), cached.frames("scene", ROWS)
    )
    assert len(pickle.dumps(cached.frames)) < 100_000  # the pixels stay on disk
    assert cached.windows("action", ROWS, 2)[0].shape == (4, 2, 3)


def test_resized(roots: dict[str, Path], tmp_path: Path) -> None:
    dataset = Dataset(roots["png"])
    small = dataset.cached((16, 8), tmp_path).frames("scene", ROWS)
    assert small.shape == (4, 16, 8, 3)
    np.testing.assert_allclose(small.mean((1, 2)), dataset.frames("scene", ROWS).mean((1, 2)), atol=2)


def test_built_once_and_again_when_it_is_damaged(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Dataset(roots["png"]).cached(None, tmp_path).frames("scene", ROWS)
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_build", lambda *arguments: pytest.fail("built twice"))
        np.testing.assert_array_equal(Dataset(roots["png"]).cached(None, tmp_path).frames("scene", ROWS), expected)
    (home,) = tmp_path.iterdir()
    (home / "0.u8").write_bytes((home / "0.u8").read_bytes()[:-1])
    np.testing.assert_array_equal(Dataset(roots["png"]).cached(None, tmp_path).frames("scene", ROWS), expected)
    (home / "cache.json").write_text("{")
    np.testing.assert_array_equal(Dataset(roots["png"]).cached(None, tmp_path).frames("scene", ROWS), expected)


def test_other_data_or_size_makes_another_cache(copy_of: CopyOf, tmp_path: Path) -> None:
    folder, root = tmp_path / "cache", copy_of("png")
    Dataset(root).cached(None, folder)
    Dataset(root).cached((8, 8), folder)
    (root / "embodiment.json").unlink()
    Dataset(root).cached(None, folder)
    assert len(list(folder.iterdir())) == 3


def test_an_interrupted_build_leaves_nothing(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "_resize", full)
    with pytest.raises(OSError, match="No space left"):
        Dataset(roots["png"]).cached(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_one_undecodable_frame_is_an_error_only_where_it_is_used(copy_of: CopyOf, tmp_path: Path) -> None:
    root = copy_of("png")
    path = root / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    images = table["observation.images.scene"].to_pylist()
    images[7]["bytes"] = b"no image"
    place = table.column_names.index("observation.images.scene")
    column = pa.array(images, table["observation.images.scene"].type)
    pq.write_table(table.set_column(place, "observation.images.scene", column), path)
    for _ in range(2):  # built, then reused
        cached = Dataset(root).cached(None, tmp_path / "cache")
        with pytest.raises(DataError, match=r"^\S+file-000.parquet \(episode 0, frame 7\): the image") as caught:
            cached.frames("scene", np.array([6, 7]))
        assert caught.value.row == 7
        assert len(cached.frames("scene", np.array([6, 8]))) == 2
        assert [e.row for e in cached.check()] == [7]


def test_a_repaired_video_is_read_again_and_a_copy_is_named_by_its_own_path(copy_of: CopyOf, tmp_path: Path) -> None:
    root = copy_of("h264")
    video = root / "videos/observation.images.scene/chunk-000/file-000.mp4"
    whole = video.read_bytes()
    intact = Dataset(root).frames("scene", np.arange(35))
    video.write_bytes(bytes(len(whole)))  # as long as before, so the hash does not see it
    elsewhere = shutil.copytree(root, tmp_path / "elsewhere")
    for place in (root, elsewhere):
        with pytest.raises(DataError) as caught:
            Dataset(place).cached(None, tmp_path / "cache").frames("scene", np.array([3]))
        assert caught.value.path == place / video.relative_to(root)
        assert str(caught.value).count(str(place)) == 1
    video.write_bytes(whole)
    cached = Dataset(root).cached(None, tmp_path / "cache")
    np.testing.assert_array_equal(cached.frames("scene", np.arange(35)), intact)
    assert not cached.check()


READ = """
import sys
from pathlib import Path
import numpy as np
from visuomotor.data.lerobot import Dataset
cached = Dataset(sys.argv[1]).cached((8, 8), Path(sys.argv[2]))
print(int(cached.frames("scene", np.arange(35)).sum(dtype=np.int64)))
"""


def test_processes_that_share_a_damaged_cache_all_read_a_whole_one(roots: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    expected = int(Dataset(roots["png"]).cached((8, 8), folder).frames("scene", np.arange(35)).sum(dtype=np.int64))
    (home,) = folder.iterdir()
    (home / "0.u8").write_bytes(b"")
    command = [sys.executable, "-c", READ, str(roots["png"]), str(folder)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [int(process.communicate()[0]) for process in processes] == [expected] * 3
    assert [p.name for p in folder.iterdir()] == [home.name]


@pytest.mark.parametrize("state", ["missing", "damaged"])
def test_the_cache_of_a_faster_process_stays(
    roots: dict[str, Path], tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged cache stays in its place until a whole one is ready, and a whole one is never deleted."""
    expected = Dataset(roots["png"]).cached(None, tmp_path).frames("scene", ROWS)
    (home,) = tmp_path.iterdir()
    (home / "cache.json").write_text("{") if state == "damaged" else shutil.rmtree(home)
    build, inodes = cache._build, []

    def slow(*arguments: Any) -> dict[str, Any]:
        assert home.exists() == (state == "damaged")
        monkeypatch.setattr(cache, "_build", build)
        Dataset(roots["png"]).cached(None, tmp_path)  # another process, meanwhile
        inodes.append(home.stat().st_ino)
        return build(*arguments)

    monkeypatch.setattr(cache, "_build", slow)
    np.testing.assert_array_equal(Dataset(roots["png"]).cached(None, tmp_path).frames("scene", ROWS), expected)
    assert [home.stat().st_ino] == inodes
    assert list(tmp_path.iterdir()) == [home]

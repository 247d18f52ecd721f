import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.lerobot.bent import FPS, Clip, Placed, picture_numbers, pictures_of_rows, write
from visuomotor.data.lerobot import Dataset, video_frames

DRIFT = np.concatenate([np.arange(20), np.arange(20)]) * 0.9 / FPS
ROWS = np.arange(40)


@pytest.fixture(scope="module")
def drifting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bent") / "drifting", [20, 20], stamps=DRIFT)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second episode has lost two frames, its span shows it."""
    placed = Placed(clips=[Clip(numbers=[*range(30), *range(32, 40)])], end=[2, 3.8])
    return write(tmp_path_factory.mktemp("bent") / "short", [20, 20], placed)


def test_every_way_to_read_takes_the_same_frames(drifting: Path, tmp_path: Path) -> None:
    dataset = Dataset(drifting)
    shuffled = np.random.default_rng(0).permutation(40)
    assert picture_numbers(dataset.frames("front", shuffled)) == shuffled.tolist()
    streamed = {
        row: picture_numbers(images["front"][None])[0]
        for row, images in dataset.stream(np.random.default_rng(0), chunk=4)
    }
    assert streamed == {row: row for row in range(40)}
    assert picture_numbers(dataset.cached(None, tmp_path).frames("front", ROWS)) == ROWS.tolist()
    fresh = pickle.loads(pickle.dumps(Dataset(drifting)))
    assert picture_numbers(fresh.frames("front", ROWS)) == ROWS.tolist()
    assert picture_numbers(pickle.loads(pickle.dumps(fresh)).frames("front", ROWS)) == ROWS.tolist()


def test_threads_match_a_video_once(drifting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = pickle.loads(pickle.dumps(Dataset(drifting)))
    clocks: list[Path] = []
    read_clock = video_frames.read_clock
    monkeypatch.setattr(video_frames, "read_clock", lambda path: clocks.append(path) or read_clock(path))
    monkeypatch.setattr(video_frames.VideoFrames, "_looks_right", lambda *_: True)
    dataset = Dataset(drifting)  # nothing looked wrong, so nothing is matched yet
    with ThreadPoolExecutor(4) as pool:
        parts = list(
            pool.map(lambda start: picture_numbers(dataset.frames("front", np.arange(start, 40, 4))), range(4))
        )
    assert parts == [list(range(start, 40, 4)) for start in range(4)]
    assert len(clocks) == 1


def test_a_refused_row_does_not_keep_earlier_ones_from_being_read(short: Path) -> None:
    dataset = Dataset(short)
    numbers, errors = pictures_of_rows(dataset)
    assert numbers == [*range(20), *[None] * 20]
    assert {error.episode for error in errors.values()} == {1}
    assert [error.frame for error in errors.values()] == list(range(20))
    assert [(error.row, error.episode) for error in dataset.check()] == [(20, 1)]
    assert Dataset(short).check()[0].message == errors[20].message


def test_a_cache_of_the_former_rules_is_built_again(drifting: Path, tmp_path: Path, caplog) -> None:
    dataset = Dataset(drifting)
    dataset.cached(None, tmp_path)
    (home,) = tmp_path.iterdir()
    facts = (home / "cache.json").read_text()
    assert '"matching": 2' in facts
    (home / "cache.json").write_text(facts.replace('"matching": 2, ', ""))
    pixels = home / "0.u8"
    pixels.write_bytes(bytes(pixels.stat().st_size))
    assert picture_numbers(dataset.cached(None, tmp_path).frames("front", ROWS)) == ROWS.tolist()
    assert "building it again" in caplog.text


def test_refused_rows_stay_refused_in_a_cache(short: Path, tmp_path: Path) -> None:
    numbers, errors = pictures_of_rows(Dataset(short).cached(None, tmp_path))
    assert numbers == [*range(20), *[None] * 20]
    assert errors[25].message == pictures_of_rows(Dataset(short))[1][25].message


def test_faults_of_many_videos_are_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos = 12
    placed = Placed(
        clips=[Clip(numbers=range(5 * v, 5 * v + 5), rate=20) for v in range(videos)],
        files=range(videos), begin=[0] * videos, end=[0.25] * videos,
    )  # fmt: skip
    dataset = Dataset(write(tmp_path / "set", [5] * videos, placed))
    assert pictures_of_rows(dataset)[0] == list(range(60))
    (record,) = caplog.records
    assert "The same fault is in 7 more videos" in record.getMessage()  # of those looked at when the set was opened
    (mismatch,) = dataset.mismatches()["front"]
    assert mismatch.files == videos
    assert mismatch.episodes == tuple(range(videos))


def test_an_uneven_video_is_found_out_before_its_first_frame_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Header and tables look right: as many frames as rows, and the same duration."""
    times = np.arange(40) / FPS + 0.15 * np.sin(np.arange(40) * 2 * np.pi / 40)
    times[-1] = 3.9
    dataset = Dataset(write(tmp_path / "set", [40], Placed(clips=[Clip(numbers=range(40), seconds=times)])))
    assert not caplog.records
    assert pictures_of_rows(dataset)[0] == [None] * 40
    assert len(caplog.records) == 1
    assert "time and number name different frames" in caplog.text


def test_an_index_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    clip = Clip(numbers=range(40), container={"movflags": "faststart"})
    root = write(tmp_path / "set", [20, 20], Placed(clips=[clip]))
    path = root / "videos/observation.images.front/chunk-000/file-000.mp4"
    path.write_bytes(path.read_bytes()[: int(0.8 * path.stat().st_size)])
    dataset = Dataset(root)
    (mismatch,) = dataset.mismatches()["front"]
    assert mismatch.severity == "error"
    assert "its index lists 40 frames, of which" in mismatch.message
    numbers, errors = pictures_of_rows(dataset)
    readable = 40 - len(errors)
    assert 0 < readable < 40
    assert numbers == [*range(readable), *[None] * len(errors)]


def thousand_episodes(root: Path, speed: float = 1.0, videos: int = 5, frames: int = 20) -> None:
    """1000 episodes of one camera in several videos; packets are copied, so that the pictures cost nothing."""
    share = 1000 // videos
    starts = np.arange(share + 1) * frames / FPS
    placed = Placed(
        clips=[Clip(numbers=range(2))] * videos,
        files=np.repeat(range(videos), share).tolist(),
        begin=np.tile(starts[:-1], videos).tolist(),
        end=np.tile(starts[1:], videos).tolist(),
    )
    write(root, [frames] * 1000, placed, stamps=np.tile(np.arange(frames), 1000) * speed / FPS)
    for path in root.rglob("*.mp4"):
        with av.open(str(path)) as source:
            stream = source.streams.video[0]
            packets = [bytes(packet) for packet in source.demux(stream) if packet.size]
            longer = path.with_suffix(".long.mp4")
            with av.open(str(longer), "w") as target:
                copy = target.add_stream_from_template(stream, opaque=True)
                for number in range(share * frames):
                    packet = av.Packet(packets[number % 2])
                    packet.stream, packet.time_base = copy, 1 / stream.average_rate
                    packet.pts = packet.dts = number
                    packet.duration, packet.is_keyframe = 1, number % 2 == 0
                    target.mux(packet)
        longer.rename(path)


@pytest.mark.parametrize(("speed", "warnings"), [(1.0, 0), (0.9, 1)])
def test_a_thousand_episodes_open_within_two_seconds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, speed: float, warnings: int
) -> None:
    thousand_episodes(tmp_path / "set", speed)
    start = time.process_time()
    dataset = Dataset(tmp_path / "set")
    seconds = time.process_time() - start
    assert seconds < 2
    assert len(caplog.records) == warnings
    assert dataset.num_episodes == 1000
    assert len(dataset.frames("front", np.arange(0, 20_000, 997))) == 21
    assert len(caplog.records) == warnings

import os
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.lerobot.fakes import make_images
from visuomotor.data.lerobot.clock import read_clock
from visuomotor.data.lerobot.video import Decoder, DecoderPool, VideoJoiner, encode_video, ordinary_scheduling


def encode(path: Path, frames: np.ndarray, fps: int, encoder: str, options: dict[str, str]) -> None:
    with ordinary_scheduling(), av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=fps, options=options)
        stream.height, stream.width = frames.shape[1:3]
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())


def in_sequence(path: Path) -> list[np.ndarray]:
    """All frames, by decoding the file from its start to its end."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("libx264", {"g": "2"}),
        ("libx264", {"g": "12", "bf": "3"}),
        ("libx264", {"g": "250", "bf": "3", "movflags": "faststart"}),
        ("libx265", {"g": "10", "x265-params": "log-level=none"}),
        ("libsvtav1", {"g": "2", "preset": "12"}),
        ("libsvtav1", {"g": "30", "preset": "12"}),
        ("mpeg4", {"g": "7"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v.values()),
)
def test_random_access_equals_sequential_decoding(tmp_path: Path, encoder: str, options: dict[str, str]) -> None:
    if encoder not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {encoder}")
    path, fps = tmp_path / "video.mp4", 10
    encode(path, make_images(0, 25), fps, encoder, options)
    truth = in_sequence(path)
    assert len(truth) == 25
    decoder, ticks = Decoder(path), read_clock(path).ticks
    rng = np.random.default_rng(0)
    for rows in [np.arange(25), [24], [0, 0, 1], [23, 24], *(np.sort(rng.integers(0, 25, 6)) for _ in range(6))]:
        for row, image in zip(rows, decoder.read(ticks[rows]), strict=True):
            np.testing.assert_array_equal(image, truth[row])


def test_time_without_a_frame_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    encode_video(path, make_images(0, 6), fps=10)
    decoder, ticks = Decoder(path), read_clock(path).ticks
    for tick in (2 * ticks[-1], ticks[-1] + 1, ticks[1] + 1, ticks[2] - 1, -ticks[1]):
        with pytest.raises(LookupError, match="ends before it, or has no frame"):
            next(decoder.read(np.array([tick])))
    assert next(decoder.read(ticks[5:])).shape == (32, 32, 3)


def test_joined_videos_hold_the_same_frames(tmp_path: Path) -> None:
    for codec in ("h264", "av1"):
        paths = [tmp_path / f"{codec}-{i}.mp4" for i in range(3)]
        for i, path in enumerate(paths):
            encode_video(path, make_images(i, 5 + i), fps=30, codec=codec)
        joiner = VideoJoiner(tmp_path / f"{codec}.mp4", 30)
        for path in paths:
            assert joiner.fits(path)
            joiner.append(path)
        joiner.close()
        parts = [frame for path in paths for frame in in_sequence(path)]
        np.testing.assert_array_equal(in_sequence(tmp_path / f"{codec}.mp4"), parts)
        decoded = list(Decoder(tmp_path / f"{codec}.mp4").read(read_clock(tmp_path / f"{codec}.mp4").ticks))
        np.testing.assert_array_equal(decoded, parts)


def test_a_video_of_another_size_does_not_fit(tmp_path: Path) -> None:
    encode_video(tmp_path / "a.mp4", make_images(0, 2), fps=10)
    encode_video(tmp_path / "b.mp4", make_images(0, 2, side=48), fps=10)
    joiner = VideoJoiner(tmp_path / "out.mp4", 10)
    joiner.append(tmp_path / "a.mp4")
    assert joiner.fits(tmp_path / "a.mp4")
    assert not joiner.fits(tmp_path / "b.mp4")
    joiner.close()


def test_pool_keeps_the_most_recent_decoders(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.mp4" for i in range(3)]
    for path in paths:
        encode_video(path, make_images(0, 2), fps=10)
    pool = DecoderPool(size=2)
    first, second = pool.get(paths[0]), pool.get(paths[1])
    assert pool.get(paths[0]) is first
    pool.get(paths[2])
    assert pool.get(paths[0]) is first
    assert pool.get(paths[1]) is not second


@pytest.mark.parametrize(
    ("frames", "message"),
    [(np.zeros((2, 33, 32, 3), np.uint8), "even"), (np.zeros((0, 32, 32, 3), np.uint8), "n > 0")],
)
def test_frames_that_cannot_be_encoded(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_video(tmp_path / "a.mp4", frames, fps=10)


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="the system has no scheduling policies")
def test_encoding_leaves_the_process_as_it_was_scheduled(tmp_path: Path) -> None:
    before = os.sched_getscheduler(0)
    encode_video(tmp_path / "v.mp4", np.zeros((4, 64, 64, 3), dtype=np.uint8), fps=10, codec="av1")
    assert os.sched_getscheduler(0) == before

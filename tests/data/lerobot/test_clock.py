from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.lerobot.bent import TICKS, Clip, encode
from visuomotor.data.lerobot import DataError
from visuomotor.data.lerobot.clock import VideoClock, read_clock, read_header, unevenness

UNEVEN = np.cumsum([0.1, *np.random.default_rng(0).uniform(0.05, 0.15, 29)]).round(4)
CLIPS = {
    "constant": Clip(numbers=range(30)),
    "reordered": Clip(numbers=range(30), options={"bf": "3", "g": "12"}),
    "late": Clip(numbers=range(30), seconds=np.arange(30) / 10 + 0.7, options={"bf": "3"}),
    "uneven": Clip(numbers=range(30), seconds=UNEVEN),
    "uneven and reordered": Clip(numbers=range(30), seconds=UNEVEN, options={"bf": "3"}),
    "cut by an edit list": Clip(numbers=range(30), seconds=np.arange(30) / 10 - 0.4),
    "fragmented": Clip(numbers=range(30), container={"movflags": "frag_keyframe+empty_moov+delay_moov"}),
    "av1": Clip(numbers=range(30), codec="libsvtav1", options={"preset": "12"}),
    "one frame": Clip(numbers=[5]),
}


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_times_are_those_of_the_decoded_frames(tmp_path: Path, name: str, suffix: str) -> None:
    if suffix == "mkv" and name in ("fragmented", "cut by an edit list"):
        pytest.skip("of mp4 alone")
    path = tmp_path / f"video.{suffix}"
    encode(path, CLIPS[name])
    with av.open(str(path)) as container:
        decoded = [frame.pts for frame in container.decode(video=0)]
        tick = float(container.streams.video[0].time_base or 0)
    for packets in (False, True):
        clock = read_clock(path, packets=packets)
        assert clock.ticks.tolist() == decoded
        assert clock.tick == tick
        np.testing.assert_allclose(clock.seconds, np.array(decoded) * tick)


def test_constant_rates_are_read_from_the_index_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packets cost ten times as much, and the disk has to deliver the whole file."""
    for name in ("constant", "reordered", "late", "av1"):
        encode(tmp_path / f"{name}.mp4", CLIPS[name])
    monkeypatch.setattr("visuomotor.data.lerobot.clock._packet_ticks", lambda *_: pytest.fail("read the packets"))
    assert len(read_clock(tmp_path / "constant.mp4")) == 30
    assert len(read_clock(tmp_path / "reordered.mp4")) == 30
    assert read_clock(tmp_path / "late.mp4").seconds[0] == pytest.approx(0.7)
    assert len(read_clock(tmp_path / "av1.mp4")) == 30


def test_header(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", Clip(numbers=range(30), rate=25))
    header = read_header(tmp_path / "a.mp4")
    assert (header.frames, header.rate, header.start) == (30, 25.0, 0.0)
    encode(tmp_path / "b.mp4", CLIPS["late"])
    assert read_header(tmp_path / "b.mp4").start == pytest.approx(0.7)
    encode(tmp_path / "c.mkv", Clip(numbers=range(30)))
    assert read_header(tmp_path / "c.mkv").frames == 0


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.mp4: is missing"):
        read_clock(tmp_path / "none.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    for read in (read_clock, read_header):
        with pytest.raises(DataError, match=r"text.mp4: is not a readable video"):
            read(tmp_path / "text.mp4")


def test_two_frames_at_one_time_are_refused(tmp_path: Path) -> None:
    """A time then names two frames. mp4 cannot hold them, Matroska can."""
    encode(tmp_path / "a.mkv", Clip(numbers=range(10)))
    with av.open(str(tmp_path / "a.mkv")) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                packet.pts = packet.dts = (packet.pts or 0) // 200 * 200
                target.mux(packet)
    with pytest.raises(DataError, match=r"b.mkv: shows 5 frames at the same time as another one"):
        read_clock(tmp_path / "b.mkv")


def test_interval_and_unevenness() -> None:
    clock = VideoClock(ticks=np.array([0, 10, 20, 40, 50]), tick=1 / TICKS)
    assert clock.interval == pytest.approx(10 / TICKS)
    assert clock.unevenness == np.inf  # too few to tell
    assert VideoClock(ticks=np.array([7]), tick=0.1).interval == 0
    assert unevenness(np.array([1.0] * 9 + [3, 5])) == 0
    assert unevenness(np.array([1.0] * 7 + [3, 5, 7])) == pytest.approx(2.4)

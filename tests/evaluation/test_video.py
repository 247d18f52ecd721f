"""Videos that browsers play, with the words on them."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from visuomotor.evaluation.video import BAD, GOOD, MARK, PATH, Caption, Frame, draw, stride, write_sheet, write_video

CAPTION = Caption(heading="train", instruction="put the red block into the bowl", success=True, outcome="success")


def frames(count: int, cameras: int = 2) -> list[Frame]:
    pictures = [np.full((48, 64, 3), 10 * i, np.uint8) for i in range(count)]
    return [
        Frame(images={f"camera{c}": p for c in range(cameras)}, step=i, text="reach") for i, p in enumerate(pictures)
    ]


@pytest.mark.parametrize(("hz", "every"), [(10.0, 1), (20.0, 2), (80.0, 8), (5.0, 1)])
def test_videos_play_in_real_time(hz: float, every: int) -> None:
    assert stride(hz) == every


@pytest.mark.parametrize("cameras", [1, 2, 3])
def test_a_picture_has_all_cameras_and_even_sides(cameras: int) -> None:
    picture = draw(frames(1, cameras)[0], CAPTION)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 256 * cameras
    assert picture.shape[0] % 2 == 0


def test_words_and_outcome_are_drawn() -> None:
    plain = draw(frames(2)[1], CAPTION)
    assert (plain != draw(frames(2)[1], Caption(heading="train", instruction="x", success=True, outcome=""))).any()
    silent = draw(Frame(images=frames(2)[1].images, step=1), CAPTION)
    assert (plain[-26:] != silent[-26:]).any()
    lost = Caption(heading="train", instruction="x", success=False, outcome="failed")
    assert tuple(draw(frames(1)[0], CAPTION, ended=True)[-2, -2]) == GOOD
    assert tuple(draw(frames(1)[0], lost, ended=True)[-2, -2]) == BAD


def test_what_the_policy_points_at_is_drawn_on_that_camera_alone() -> None:
    images = frames(1)[0].images
    plain = draw(Frame(images=images, step=0), CAPTION)
    box = {"camera": "camera1", "boxes": {"cup": [750, 500, 250, 250]}, "trace": []}
    marked = draw(Frame(images=images, step=0, marks=box), CAPTION)
    assert (plain[:, :256] == marked[:, :256]).all()

    def shows(picture: np.ndarray, colour: tuple[int, int, int], column: int, x: float, y: float) -> bool:
        """Whether the colour is within three pixels of a place of a panel, 0 to 1."""
        row, col = picture.shape[0] - 26 - 256 + round(y * 255), 256 * column + round(x * 255)
        return bool((picture[row - 3 : row + 4, col - 3 : col + 4] == colour).all(-1).any())

    for x, y in ((0.25, 0.4), (0.75, 0.4), (0.5, 0.25), (0.5, 0.5)):  # corners may come in any order
        assert shows(marked, MARK, 1, x, y)
    assert not shows(marked, MARK, 1, 0.5, 0.4)
    path = {"camera": "camera0", "boxes": {}, "trace": [[100, 900], [500, 900], [900, 900]]}
    traced = draw(Frame(images=images, step=0, marks=path), CAPTION)
    assert all(shows(traced, PATH, 0, x, 0.9) for x in (0.1, 0.5, 0.9))
    assert (plain[:, 256:] == traced[:, 256:]).all()


def test_a_long_instruction_stays_inside() -> None:
    long = Caption(heading="train", instruction="put " + "the red block " * 30, success=True, outcome="x" * 400)
    assert draw(frames(1)[0], long).shape == draw(frames(1)[0], long, ended=True).shape


def test_the_file_is_h264_with_its_index_first(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, frames(12), CAPTION, control_hz=20.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(decoded) == 12 + 10
    assert np.abs(decoded[-1][-4, -4].astype(int) - GOOD).max() < 12
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_sheet_shows_the_course_of_the_rollout(tmp_path: Path) -> None:
    write_sheet(tmp_path / "a.png", frames(20), CAPTION)
    one = draw(frames(1)[0], CAPTION).shape
    assert Image.open(tmp_path / "a.png").size == (4 * one[1] // 2, 2 * one[0] // 2)
    write_sheet(tmp_path / "b.png", frames(1), CAPTION)
    assert Image.open(tmp_path / "b.png").size == (one[1] // 2, one[0] // 2)
    for write in (write_sheet, lambda path, none, caption: write_video(path, none, caption, 10.0)):
        with pytest.raises(ValueError, match="No frames"):
            write(tmp_path / "c", [], CAPTION)

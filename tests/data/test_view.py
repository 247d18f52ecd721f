import av
import numpy as np
import pytest

from tests.data.lerobot import bent
from tests.data.recording import FPS, FRAMES, annotated, episode, write
from visuomotor.data.lerobot import Dataset
from visuomotor.data.view import BAR, CAPTION, COLOURS, PANEL, TRACE, annotated_video, contact_sheet, draw_frame


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    return write(tmp_path_factory.mktemp("data") / "d", annotated)


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels that have a colour."""
    return np.argwhere((picture == np.array(colour)).all(-1))


def test_a_box_is_drawn_where_it_is(dataset):
    grey = {"front": np.full((32, 32, 3), 127, np.uint8)}
    annotation = annotated(episode(0)).annotations[10]
    picture = np.asarray(draw_frame(grey, annotation))
    box = np.array(annotation.boxes["front"]["block"]) * (PANEL - 1) / 1000
    drawn = near(picture[:PANEL], COLOURS[0])
    columns, rows = drawn[:, 1], drawn[:, 0]
    assert abs(columns.min() - box[0]) <= 1
    assert abs(columns.max() - box[2]) <= 1
    assert abs(rows.max() - box[3]) <= 1


def test_the_trace_starts_at_the_hand_and_follows_the_points():
    grey = {"front": np.full((32, 32, 3), 127, np.uint8)}
    annotation = annotated(episode(0)).annotations[0]
    drawn = near(np.asarray(draw_frame(grey, annotation, {"front": np.array([[500, 500], [900, 900]])}))[:PANEL], TRACE)
    assert drawn[:, 1].max() == pytest.approx(0.9 * PANEL, abs=3)
    assert drawn[:, 0].max() == pytest.approx(0.9 * PANEL, abs=3)
    assert drawn[:, 1].min() <= 5  # the circle around the hand at the left edge


def test_progress_fills_its_share_of_the_bar():
    grey = {"front": np.full((32, 32, 3), 127, np.uint8)}
    for t in (3, 27):
        picture = np.asarray(draw_frame(grey, annotated(episode(0)).annotations[t]))
        filled = near(picture[PANEL : PANEL + 2], BAR)[:, 1].max() + 1
        assert filled == pytest.approx(PANEL * t / FRAMES, abs=2)


def test_cameras_stand_side_by_side():
    wide = {"a": np.full((32, 64, 3), 10, np.uint8), "b": np.full((32, 32, 3), 200, np.uint8)}
    picture = np.asarray(draw_frame(wide))
    assert picture.shape == (PANEL + CAPTION, 3 * PANEL, 3)
    assert (picture[0, : 2 * PANEL] == 10).all()
    assert (picture[0, 2 * PANEL :] == 200).all()


def test_contact_sheet_has_as_many_frames_as_asked(dataset):
    one, six = contact_sheet(dataset, 0, 1), contact_sheet(dataset, 0, 6)
    assert (one.width, one.height - 24) == (PANEL, PANEL + CAPTION)
    assert six.width * (six.height - 24) == 6 * PANEL * (PANEL + CAPTION)
    many = contact_sheet(dataset, 0, 10 * FRAMES)  # no frame twice
    assert many.width * (many.height - 24) == FRAMES * PANEL * (PANEL + CAPTION)
    assert np.asarray(contact_sheet(dataset, 0, 6)).tobytes() != np.asarray(contact_sheet(dataset, 1, 6)).tobytes()


def test_video_has_every_frame_at_the_rate_of_the_data(dataset, tmp_path):
    annotated_video(dataset, 2, tmp_path / "v.mp4")
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert float(stream.average_rate or 0) == FPS
    assert len(frames) == FRAMES
    expected = np.asarray(contact_sheet(dataset, 2, 1))[24:]
    difference = np.abs(frames[0].astype(int) - expected)[PANEL:].mean()
    assert difference < 6  # the caption survives the codec


def test_data_without_annotations_is_shown_plainly(tmp_path):
    plain = write(tmp_path / "d")
    picture = np.asarray(contact_sheet(plain, 0, 2))
    assert not len(near(picture, COLOURS[0]))
    assert not len(near(picture, TRACE))


def test_bad_arguments(dataset):
    with pytest.raises(ValueError, match="at least one frame"):
        contact_sheet(dataset, 0, 0)
    with pytest.raises(IndexError, match="episodes 0 to 4"):
        contact_sheet(dataset, 9, 3)


def test_an_episode_without_frames_borrows_none(tmp_path):
    data = Dataset(bent.write(tmp_path / "set", [3, 0, 4]))
    for draw in (contact_sheet, lambda data, episode: annotated_video(data, episode, tmp_path / "out.mp4")):
        with pytest.raises(ValueError, match=r"Episode 1 of .* has no frames, so there is nothing to draw"):
            draw(data, 1)
    assert not (tmp_path / "out.mp4").exists()

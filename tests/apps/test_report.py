"""The report: whole without other files, safe with any text, and silent about what is not there."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from statsmodels.stats.proportion import proportion_confint

from tests.apps.run_folder import record, write_data, write_eval, write_train
from tests.holding import holding
from visuomotor.apps.facts import duration, short, software
from visuomotor.apps.outcomes import control, latency_rows
from visuomotor.apps.report import write_report
from visuomotor.apps.steps import Steps
from visuomotor.evaluation.results import summarise

HEADINGS = {
    "eval": {"Success", "Watch it", "Failures", "Speed of the policy"},
    "train": {"Learning"},
    "data": {"Data"},
}
LOADS = ("src", "href", "poster", "data", "srcset", "action")


class Page(HTMLParser):
    """What a browser would load, show and understand of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[tuple[str, str]] = []
        self.headings: set[str] = set()
        self.text = ""
        self.open = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open = tag
        self.loaded += [(tag, value or "") for name, value in attrs if name.split(":")[-1] in LOADS]

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "
        if self.open == "h2" and data.strip():
            self.headings.add(data.strip())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all its parts: four rollouts, one of them filmed, and a control on the same starts."""
    folder = tmp_path_factory.mktemp("run")
    rollouts = [
        record(0, True, video="videos/a.mp4", sheet="videos/a.png"),
        record(1, True),
        record(2, True),
        record(3, False, video="videos/b.mp4", sheet="videos/b.png"),
    ]
    controls = [record(i, False, "wrong_instruction") for i in range(4)]
    write_eval(folder, rollouts + controls)
    write_train(folder)
    write_data(folder)
    Steps(folder).run("train", "x", folder / "train" / "none", lambda resume, overwrite: None)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(whole: Path) -> Page:
    return Page(whole / "report.html")


def test_it_needs_nothing_else(page: Page) -> None:
    outside = [(tag, value[:60]) for tag, value in page.loaded if not value.startswith(("data:", "#"))]
    assert not outside
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)|@import", page.text)


def test_videos_and_pictures_are_whole(page: Page) -> None:
    videos = [value for tag, value in page.loaded if tag == "video" and value.startswith("data:video/mp4;base64,")]
    posters = [value for tag, value in page.loaded if tag == "video" and value.startswith("data:image/jpeg;base64,")]
    assert len(videos) == len(posters) == 2
    assert base64.b64decode(videos[0].split(",")[1])[4:8] == b"ftyp"
    pictures = [value for tag, value in page.loaded if tag == "img"] + posters
    for picture in pictures:
        Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))).verify()
    assert len(pictures) == 2 + 1 + 3 + 2  # in print, of the failure, of the data, posters


def test_every_part_has_its_heading(page: Page) -> None:
    assert page.headings == {"What was run", "Wall time"}.union(*HEADINGS.values())


def test_numbers_are_those_of_the_files(page: Page) -> None:
    words = " ".join(page.text.split())
    low, high = proportion_confint(3, 4, method="wilson")
    assert f"75.0 % [{100 * low:.0f}, {100 * high:.0f}] (3/4)" in words
    assert f"{100 * low:.1f} to {100 * high:.1f} %" in words
    assert "12 steps, 50 samples/s, 25.0 % of the time waiting for data" in words
    assert "On the same 4 starts: -75 points against train" in words
    assert "1 of 1 failed episodes" in words
    assert "wrote last: “grasp”" in words


def test_interventions_of_the_safety_filter_are_told(tmp_path: Path) -> None:
    told = {
        "stalls": 5,
        "jerk": 1.5,
        "seam_jerk": 8.25,
        "interventions": {"gripper_rate": 2, "limit": 3},
        "intervened": 4,
    }
    write_eval(tmp_path, [record(0, True, **told), record(1, True)])
    words = " ".join(Page(write_report(tmp_path)).text.split())
    assert "train 0.2 1.5 8.2 32 4 (12.5 %) gripper rate 2, limit 3" in words


def test_facts_are_short(page: Page) -> None:
    words = " ".join(page.text.split("Every recorded field")[0].split())
    assert "started from start step-7 of mother, weights eeeeeeeeeeeeeeee" in words
    assert "code version cccccccccccc + changes" in words
    assert "wall time 1 min 35 s" in words
    assert "(not what the checkpoint saw)" in words
    assert "numpy 2.4.6 (training), 2.4.5 (evaluation)" in words
    assert "{" not in words.split("What was run")[1]


@pytest.mark.parametrize("part", ["eval", "train", "data"])
def test_a_missing_part_is_left_out(part: str, tmp_path: Path) -> None:
    if part == "eval":
        write_eval(tmp_path, [record(0, False, video="videos/a.mp4", sheet="videos/a.png")])
    elif part == "train":
        write_train(tmp_path)
    else:
        write_data(tmp_path)
    assert Page(write_report(tmp_path)).headings == HEADINGS[part] | {"What was run"}


def test_pictures_that_are_gone_are_left_out(tmp_path: Path) -> None:
    where = write_eval(tmp_path, [record(0, False, video="videos/a.mp4", sheet="videos/a.png")])
    for file in (where / "videos").iterdir():
        file.unlink()
    page = Page(write_report(tmp_path))
    assert "Watch it" not in page.headings
    assert not {"video", "img"} & set(page.tags)
    assert "Failures" in page.headings


def test_text_is_text(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script> \"quoted\" & <b>bold</b>"
    words = {"instruction": evil, "text": ((0, evil),), "error": evil}
    write_eval(tmp_path, [record(0, False, video="videos/a.mp4", sheet="videos/a.png", **words)])
    page = Page(write_report(tmp_path, title=evil))
    assert "script" not in page.tags
    assert page.text.count("alert('1')") >= 4  # title, video, failure, error
    assert page.tags.count("b") == 2  # the two figures; none from the instruction


def test_the_folder_of_a_training_itself_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 20, "loss": 0.5, "samples_per_second": 30}\n')
    assert "20 steps, 30 samples/s" in Page(write_report(tmp_path)).text


def test_a_folder_with_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds neither data/, train/ nor eval/"):
        write_report(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        write_report(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_another_place(whole: Path, tmp_path: Path) -> None:
    assert write_report(whole, tmp_path / "mine.html").read_text().startswith("<!doctype html>")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]


def test_a_run_that_goes_on_has_a_report(whole: Path) -> None:
    """Reports need no lock: each is written under a name of its own, and takes its place at once."""
    with holding(whole):
        assert write_report(whole).read_text().startswith("<!doctype html>")
    assert not [p for p in whole.iterdir() if p.name.startswith(".")]


def test_first_calls_stand_apart() -> None:
    records = [record(i, True, latency=(0.4, 0.1, 0.1), batch=(1, 1, 1)) for i in range(2)]
    first, later = latency_rows(summarise({}, records)["train"], records)
    assert (first["p50"], first["count"]) == ("400", 2)
    assert (later["p50"], later["count"]) == ("100", 4)
    assert first["answers"] == "5.0"  # 6 calls in 1.2 s


def test_a_control_on_other_starts_is_not_compared() -> None:
    records = [record(0, True), record(5, False, "heldout_paraphrase")]
    assert control(summarise({}, records)["heldout_paraphrase"], records)["paired"] == ""


@pytest.mark.parametrize(("seconds", "text"), [(4.02, "4.0 s"), (95, "1 min 35 s"), (3700, "1 h 1 min")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_only_hashes_are_shortened() -> None:
    assert short("ab" * 32) == "ab" * 6
    assert short(f"0.1.0+{'c' * 40}+changes") == "0.1.0+cccccccccccc + changes"
    assert short("a sentence of more than forty letters is no hash") == (
        "a sentence of more than forty letters is no hash"
    )
    assert short({"robot": "0" * 64, "x": [1, 2]}) == "robot 000000000000, x 1, 2"


def test_versions_that_agree_are_said_once() -> None:
    facts = software({"versions": {"numpy": "2", "commit": "abc"}}, {}, {"versions": {"numpy": "2"}})
    assert facts == [("numpy", "2")]

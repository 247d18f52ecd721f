"""Data sets by name: what is opened, and what is said of objects that are no data sets."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.data.fakes import FakeDataset
from visuomotor.data.episodes import SUPPLIED, EpisodeSource
from visuomotor.data.lerobot import Dataset
from visuomotor.data.sources import open_source

HEADER = """
import numpy as np
from tests.data.fakes import FakeDataset
from visuomotor.data.episodes import EpisodeSource
"""


@pytest.fixture
def name(tmp_path: Path):
    def write(source: str, path: str = "") -> str:
        file = tmp_path / "formats.py"
        file.write_text(HEADER + source)
        return f"{file}:make{path}"

    return write


def test_a_function_or_a_class_makes_a_data_set(name) -> None:
    made = open_source(name("def make(path): return FakeDataset(int(path))\nclass Six(FakeDataset): pass", ":4"))
    assert made.num_episodes == 4
    assert open_source(name("").replace("make", "Six")).num_episodes == 6


class Plain:
    """A data set that derives from nothing, with every member written out."""

    def __init__(self) -> None:
        self.inner = FakeDataset()

    def __getattr__(self, member: str) -> object:
        return getattr(self.__dict__["inner"], member)


def test_a_class_of_its_own_is_enough(name) -> None:
    made = open_source(name("from tests.data.test_sources import Plain as make"))
    assert made.windows("action", np.array([0]), 3)[0].shape == (1, 3, 6)


BENT = """
def make():
    data = FakeDataset()
    data.{member} = {value}
    return data
"""
WRONG_FRAMES = """
class make(FakeDataset):
    def frames(self, camera, rows):
        return np.zeros((1, 3, 8, 8))
"""
ALL = "lacks root, columns, starts, fps, cameras, embodiment, frames, instructions, hash of a data set."


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("class make(EpisodeSource): pass", f"gave a make, which {ALL}"),
        ("class make(FakeDataset): hash = EpisodeSource.hash", "which lacks hash of a data set."),
        ("def make(): return {}", f"gave a dict, which {ALL} Derive its class from EpisodeSource for the rest."),
        (WRONG_FRAMES, "frames('scene_camera', [0]) are float64[1, 3, 8, 8] instead of uint8[1, h, w, 3]"),
        (BENT.format(member="starts", value="data.starts[1:]"), "starts are [20, 41, 63, 86, 110]; give the first row"),
        (BENT.format(member="columns['action']", value="np.zeros((7, 6))"), "column 'action' has 7 rows, not 135"),
        (BENT.format(member="cameras", value="('wrist_camera',)"), "without 'scene_camera' of its embodiment"),
        ("def make(path, rate): return FakeDataset()", "takes (path, rate), but"),
        ("make = 3", "of type int, but a data format must be of type class or function"),
        ("", "has no 'make'"),
    ],
)
def test_what_is_no_data_set_is_refused_in_a_sentence(name, source: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        open_source(name(source))


def test_a_path_for_a_format_that_takes_none_is_refused(name) -> None:
    with pytest.raises(ValueError, match=r"takes \(\), but .* gives 1 arguments"):
        open_source(name("def make(): return FakeDataset()", ":folder"))


def test_the_lerobot_class_supplies_the_protocol() -> None:
    assert EpisodeSource in Dataset.__mro__
    for member in ("frames", "instructions", "hash", "annotations", "has", "traces", "info", "feature", "mismatches"):
        assert getattr(Dataset, member) is not getattr(EpisodeSource, member), member
    assert {"frames", "instructions", "hash"} <= set(SUPPLIED)


def test_only_its_own_package_and_the_opener_name_the_lerobot_class() -> None:
    root = Path(open_source.__code__.co_filename).parents[1]
    pattern = re.compile(r"^\s*from visuomotor\.data\.lerobot(\.dataset)? import .*\bDataset\b", re.M)
    naming = {str(p.relative_to(root)) for p in root.rglob("*.py") if pattern.search(p.read_text())}
    assert {n for n in naming if not n.startswith("data/lerobot/")} == {"data/sources.py"}

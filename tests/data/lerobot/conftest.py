"""Three tiny episodes, and the data sets written from them in each kind of storage."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.lerobot.fakes import FPS, LENGTHS, make_embodiment, make_episode
from visuomotor.contract import Embodiment, Episode
from visuomotor.data.lerobot import DatasetWriter

STORAGES = {"h264": ("video", "h264"), "av1": ("video", "av1"), "png": ("image", "h264")}


@pytest.fixture(scope="session")
def embodiment() -> Embodiment:
    return make_embodiment()


@pytest.fixture(scope="session")
def episodes() -> list[Episode]:
    return [make_episode(i, length) for i, length in enumerate(LENGTHS)]


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode], embodiment: Embodiment) -> dict[str, Path]:
    """{storage: data set}; tests that change files copy one first (see `copy_of`)."""
    folder = tmp_path_factory.mktemp("lerobot")
    for name, (storage, codec) in STORAGES.items():
        with DatasetWriter(folder / name, embodiment, fps=FPS, storage=storage, codec=codec) as writer:  # type: ignore[arg-type]
            for episode in episodes:
                writer.add(episode)
    return {name: folder / name for name in STORAGES}


@pytest.fixture(params=STORAGES)
def root(request: pytest.FixtureRequest, roots: dict[str, Path]) -> Path:
    """A data set of each storage in turn; read only."""
    return roots[request.param]


@pytest.fixture
def copy_of(roots: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """copy_of(storage) -> a copy that the test may damage."""
    return lambda name: Path(shutil.copytree(roots[name], tmp_path / name))

"""What the command line is tried on: a recorded arm, a checkpoint for it, a checkpoint for a fake world."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.data.recording import write
from tests.evaluation import fake_world
from visuomotor.cli.main import main
from visuomotor.contract import Episode
from visuomotor.data.lerobot import DatasetWriter
from visuomotor.data.loader import Loader
from visuomotor.simulation import interface

TINY = (
    "--batch-size",
    "4",
    "--image-size",
    "24",
    "--horizon",
    "4",
    "--config.llm.layers",
    "1",
    "--config.llm.width",
    "32",
)
TRAIN = (*TINY, "--stages.train.validate-every", "0", "--threads", "1")


class Answer(NamedTuple):
    """What a command said: exit status, standard output, standard error."""

    status: int
    out: str
    error: str

    @property
    def sentence(self) -> str:
        """The last line of standard error, which must be all that is said of a failure."""
        assert self.status != 0, self.out
        assert "Traceback" not in self.error + self.out
        return self.error.strip().splitlines()[-1]


Command = Callable[..., Answer]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """`command("data", "info", folder)` as typed in a shell, in this process."""

    def run(*arguments: object) -> Answer:
        capfd.readouterr()
        threads = torch.get_num_threads()
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
            torch.set_num_threads(threads)
        out, error = capfd.readouterr()
        return Answer(status, out, error)

    return run


@pytest.fixture(autouse=True)
def worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds without physics; their names are importable in worker processes."""
    monkeypatch.setitem(interface.WORLDS, "reach", "tests.simulation.fake_world")
    monkeypatch.setitem(interface.WORLDS, "line", "tests.evaluation.fake_world")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded frames go where pytest cleans up, not into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Loader.__init__.__kwdefaults__, "cache", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("recorded") / "arm"
    write(root, storage="video")
    return root


@pytest.fixture
def arm(recorded: Path, tmp_path: Path) -> Path:
    """A copy of the recorded arm, to be damaged."""
    return shutil.copytree(recorded, tmp_path / "arm")


@pytest.fixture(scope="session")
def arm_checkpoint(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(recorded, tmp_path_factory.mktemp("arm_run"))


@pytest.fixture(scope="session")
def line_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for the world "line"."""
    root = tmp_path_factory.mktemp("line")
    rng = np.random.default_rng(0)
    with DatasetWriter(root / "data", fake_world.EMBODIMENT, fps=10, storage="image") as writer:
        for instruction in fake_world.SENTENCES.values():
            writer.add(line_episode(instruction, rng))
    return trained(root / "data", root / "run")


def line_episode(instruction: str, rng: np.random.Generator) -> Episode:
    images = {c.name: rng.integers(0, 255, (12, 32, 32, 3), np.uint8) for c in fake_world.EMBODIMENT.cameras}
    steps = rng.uniform(-0.2, 0.2, (12, 1)).astype(np.float32)
    return Episode(instruction=instruction, state=np.cumsum(steps, 0), actions=steps, images=images)


def trained(data: Path, out: Path) -> Path:
    status = main(["train", "own-data", "--data", str(data), "--out", str(out), "--steps", "1", *TRAIN])
    assert status == 0
    return out / "checkpoints" / "step-000001"

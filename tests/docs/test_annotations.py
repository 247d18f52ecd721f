"""docs/annotations.md runs, on a recording without annotations, and what it says of columns and options is so."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.data.recording import write
from tests.docs.guide import DOCS, follow
from visuomotor.data.lerobot import Dataset
from visuomotor.data.processor import Processor
from visuomotor.text.scaffold import LEVELS

GUIDE = DOCS / "annotations.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("guide")
    write(root / "my-data", storage="video")
    follow(GUIDE, root)
    return root


def test_the_labels_are_those_that_training_reads(folder: Path) -> None:
    dataset = Dataset(folder / "my-labels")
    assert all(dataset.has(name) for name in ("subtask", "boxes", "point", "progress"))
    found = dataset.annotations(np.array([0, 25]))
    assert found is not None
    assert [a.subtask for a in found] == ["reach for the block", "lift the block"]
    assert found[0].boxes == {"front": {"block": (300, 400, 500, 600)}}
    assert found[1].boxes["front"]["block"][1] < 400
    assert found[0].point == {"front": (500, 500)}
    assert found[1].progress == pytest.approx(25 / 29)


def test_a_sample_says_all_of_them(folder: Path) -> None:
    dataset = Dataset(folder / "my-labels")
    processor = Processor.load(folder / "runs/labels/checkpoints/step-000002")
    assert processor.config.levels.keys() == set(LEVELS)
    images = {"front": dataset.frames("front", np.array([5]))[0]}
    texts = [
        processor.tokenizer.decode(processor.sample(0, dataset, 5, images, np.random.default_rng(seed)).text_ids)
        for seed in range(20)
    ]
    written = "\n".join(texts)
    for line in ("Subtask: reach for the block\n", "Box: block 305 400 505 600\n", "Trajectory: main gripper: ("):
        assert line in written
    assert (folder / "labels.mp4").stat().st_size > 1000


def test_every_option_in_the_text_exists() -> None:
    from visuomotor.data.config import ProcessorConfig
    from visuomotor.policy import SETTINGS

    text = GUIDE.read_text()
    fields = {name.replace("-", "_") for name in re.findall(r"`?--processor\.([\w-]+)", text)}
    assert fields <= set(ProcessorConfig.__dataclass_fields__)
    table = text.partition("| option of `load_policy`")[2]
    assert set(re.findall(r"^\| `(\w+)", table, re.M)) <= set(SETTINGS)

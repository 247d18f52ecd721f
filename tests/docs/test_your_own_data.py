"""docs/your-own-data.md runs: its bash and python blocks, in order, on a recording without embodiment.json."""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.data.recording import write
from tests.docs.guide import DOCS, follow
from visuomotor.data.lerobot import Dataset

GUIDE = DOCS / "your-own-data.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the guide was followed from beginning to end."""
    root = tmp_path_factory.mktemp("guide")
    write(root / "my-data", storage="video")
    (root / "my-data" / "embodiment.json").unlink()
    return follow(GUIDE, root)


def test_the_guide_leaves_what_it_promises(folder: Path) -> None:
    robot = Dataset(folder / "my-data").require_embodiment()
    assert robot.name == "my_arm"
    assert robot.action[0].high == (0.1, 0.1, 0.1)
    annotated = Dataset(folder / "my-data-annotated")
    assert annotated.has("subtask")
    first = annotated.annotations(np.array([0]))
    assert first is not None
    assert first[0].subtask == "reach for the block"
    for run, step in (("try", 4), ("tuned", 2), ("taught", 2), ("both", 2)):
        assert (folder / "runs" / run / "checkpoints" / f"step-{step:06d}" / "model.safetensors").exists()
    assert (folder / "sheet.png").stat().st_size > 1000
    assert (folder / "annotated.mp4").stat().st_size > 1000


def test_every_recipe_and_command_in_the_text_exists() -> None:
    from visuomotor.cli.data import COMMANDS
    from visuomotor.recipes import RECIPES

    text = GUIDE.read_text()
    assert set(re.findall(r"visuomotor data (\w+)", text)) <= set(COMMANDS)
    named = set(re.findall(r"visuomotor train ([\w-]+)(?= )", text)) - {"list"}
    assert {name for name in named if not name.endswith(".py")} <= {*RECIPES, "my_recipe"}

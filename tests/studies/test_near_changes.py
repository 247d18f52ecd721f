from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.data.recording import ARM, write
from tests.models.damvla.conftest import SMALL
from tests.studies.test_summary import record
from visuomotor.contract import Episode
from visuomotor.data.lerobot import Dataset
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.models import make_config
from visuomotor.models.damvla import DAMVLA, switches
from visuomotor.policy import Policy
from visuomotor.studies.near_changes import measure_near_changes

PROCESSOR = ProcessorConfig(
    horizon=4, action_width=6, state_width=6, image_roles=ARM.roles, image_size=28, levels={}, prompt="cogact",
    weights=("trajectory", "chunk"), router=True,
)  # fmt: skip


def checkpoint(folder: Path, dataset: Dataset, config: ProcessorConfig, combination: str) -> Path:
    processor = Processor.build(config, [dataset])
    words = {"llm.vocab_size": processor.tokenizer.vocab_size, "action_model.action_dim": 6}
    model = DAMVLA(make_config("damvla", "nano", **{**SMALL, **words, **switches(combination)}))
    return Policy(model, processor).save(folder / combination)


def test_errors_near_changes_and_what_the_router_says(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data")
    rollouts = [replace(record(i, i > 0), router=((0, 0.2, 0), (4, 0.7, 1))) for i in range(2)]
    for combination, known in (("full", {"router AUC"}), ("base", set())):
        out = tmp_path / f"{combination}-out"
        out.mkdir()
        folder = checkpoint(tmp_path, dataset, PROCESSOR, combination)
        found = measure_near_changes(folder, tmp_path / "data", rollouts, out)
        assert found.keys() == {"error near", "error elsewhere", *known}
        assert all(value > 0 for value in found.values())
        assert measure_near_changes(folder, tmp_path / "data", rollouts, out) == found
        assert {path.name for path in out.iterdir()} == ({"routing.png", "attention.png"} if known else set())
    assert Image.open(tmp_path / "full-out" / "attention.png").size[0] > 500


def test_where_nothing_changes_there_is_no_error_near_a_change(tmp_path: Path) -> None:
    def still(recorded: Episode) -> Episode:
        actions = recorded.actions.copy()
        actions[:, -1] = 1.0
        return replace(recorded, actions=actions)

    folder = checkpoint(tmp_path, write(tmp_path / "data", still), PROCESSOR, "full")
    out = tmp_path / "out"
    out.mkdir()
    assert measure_near_changes(folder, tmp_path / "data", [], out).keys() == {"error elsewhere"}


def test_without_weights_nobody_knows_where_changes_are(tmp_path: Path) -> None:
    dataset = write(tmp_path / "data")
    folder = checkpoint(tmp_path, dataset, replace(PROCESSOR, weights=(), router=False), "base")
    with pytest.raises(ValueError, match="trained without trajectory weights"):
        measure_near_changes(folder, tmp_path / "data", [], tmp_path)

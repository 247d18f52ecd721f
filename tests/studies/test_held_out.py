from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.data.recording import annotated, write
from visuomotor.data.lerobot import Dataset
from visuomotor.data.processor import Processor, ProcessorConfig
from visuomotor.studies import held_out
from visuomotor.studies.held_out import EXECUTED, held_out_rows, measure_held_out


def acting(dataset: Dataset, shift: float, says: str | None) -> Any:
    """A policy that knows the recorded actions, and is `shift` beside them in normalised units."""
    robot = dataset.require_embodiment()
    config = ProcessorConfig(horizon=6, action_width=8, state_width=6, image_roles=robot.roles, levels={})
    processor = Processor.build(config, [dataset])
    states, seen = dataset.columns["observation.state"], []

    def infer(observations: list[Any]) -> list[Any]:
        chunks = []
        for look in observations:
            [row] = np.flatnonzero((states == look.state).all(1))
            seen.append(int(row))
            assert set(look.images) == set(dataset.cameras)
            wanted = dataset.windows("action", row, 6)[0][0]
            wanted[EXECUTED:] += 99  # never executed
            beside = processor.robot_actions(processor.model_actions(wanted, look.state) + shift, look.state)
            text = {} if says is None else {"subtask": says}
            chunks.append(SimpleNamespace(actions=beside, text=text))
        return chunks

    return SimpleNamespace(processor=processor, infer=infer, seen=seen)


@pytest.mark.parametrize("says", [None, "reach"])
def test_the_error_is_that_of_the_steps_that_would_be_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str | None
) -> None:
    dataset = write(tmp_path / "data", annotated)
    for shift in (0.0, 0.25):
        policy = acting(dataset, shift, says)
        monkeypatch.setattr(held_out, "load_policy", lambda path, policy=policy: policy)
        found = measure_held_out(tmp_path / "none", tmp_path / "data", [], tmp_path)
        assert found["action error"] == pytest.approx(shift, abs=1e-4)
        slices, rows = held_out_rows(dataset, held_out.FRAMES)
        assert policy.seen == rows.tolist()
        assert len(rows) == 30 * len(slices)
        assert found.get("sub-steps right") == (None if says is None else pytest.approx(20 / 30))

"""Checkpoints of earlier formats, whose tensors have the names of published files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.models.dexvla.test_expert import ROBOTS, make
from visuomotor.models import config_to_json, find_spec, read_checkpoint

PUBLISHED = {
    "dexvla": {"visual", "model", "input_action_proj", "reasoning_action_proj", "reasoning_film", "policy_head"},
    "dexvla-expert": {"obs_encoder", "obs_projector", "noise_pred_net"},
}


@pytest.mark.parametrize("written", [None, 2, 3])
@pytest.mark.parametrize("name", ["dexvla", "dexvla-expert"])
def test_tensors_are_renamed_when_they_are_read(
    tmp_path: Path, make_dexvla: Callable[..., nn.Module], name: str, written: int | None
) -> None:
    model: Any = make(**ROBOTS) if name == "dexvla-expert" else make_dexvla()
    names = find_spec(name).names
    assert names is not None
    published = {key: tensor.detach().clone() for key, tensor in names.state(model).items()}
    assert {key.partition(".")[0] for key in published} == PUBLISHED[name]
    state = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    assert {key.partition(".")[0] for key in state} == {"backbone", "head"}
    assert all(names.own(names.published(key)) == key for key in state)
    save_file(state if written == 3 else published, tmp_path / "model.safetensors")
    config = {**config_to_json(name, model.config), "format": written}
    if written is None:
        del config["format"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_checkpoint(tmp_path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())

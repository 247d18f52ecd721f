"""Checkpoints of formats 1 and 2, whose tensors have the names of published files, are renamed when they are read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from visuomotor.models import FORMAT, config_to_json, find_spec, make_config, make_model, read_checkpoint

# The first parts of published names, of the models that had checkpoints before format 3.
PUBLISHED = {
    "dm0": {"model"},
    "cogact": {"vlm", "action_model"},
    "damvla": {"vlm", "action_model", "gripper_model", "router"},
    "dexvla": {"visual", "model", "input_action_proj", "reasoning_action_proj", "reasoning_film", "policy_head"},
    "dexvla-expert": {"obs_encoder", "obs_projector", "noise_pred_net"},
}


@pytest.mark.parametrize("written", [1, 2, FORMAT])
@pytest.mark.parametrize("name", PUBLISHED)
def test_tensors_are_renamed_when_they_are_read(tmp_path: Path, name: str, written: int) -> None:
    names, model = find_spec(name).names, make_model(name, make_config(name))
    assert names is not None
    state = {key: tensor.detach().clone() for key, tensor in model.state_dict().items()}
    published = {names.published(key): tensor for key, tensor in state.items()}
    assert {key.partition(".")[0] for key in published} == PUBLISHED[name]
    assert {key.partition(".")[0] for key in state} == {"backbone", "head"}
    save_file(state if written == FORMAT else published, tmp_path / "model.safetensors")
    config = config_to_json(name, model.config)
    del config["format"]
    (tmp_path / "config.json").write_text(json.dumps(config if written == 1 else {**config, "format": written}))
    found = read_checkpoint(tmp_path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in state.items())

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.heads.conftest import ROBOTS
from visuomotor.models import config_to_json
from visuomotor.models.dexvla import ScaleDP, ScaleDPConfig, transplant_stage1
from visuomotor.models.dexvla.expert import DexVLAExpert, DexVLAExpertConfig
from visuomotor.models.dexvla.tensors import STAGE1_NAMES
from visuomotor.models.dexvla.transplant import read_stage1

OWN = 10  # tensors of a robot's layers: into the trunk 2, into the condition 6, out of it 2


def under_stage1_names(head: ScaleDP) -> dict[str, Tensor]:
    return {f"noise_pred_net.{name}": tensor + 1 for name, tensor in head.state_dict().items()}


def test_the_published_file_is_read_without_running_code(tmp_path: Path) -> None:
    nets = {"policy.noise_pred_net.pos_embed": torch.ones(1, 4, 16)}
    torch.save({"nets": {"nets": nets, "ema": {}}}, tmp_path / "stage1.ckpt")
    assert read_stage1(tmp_path / "stage1.ckpt").keys() == nets.keys()
    torch.save({"nets": {"nets": {"policy": Path("x")}}}, tmp_path / "code.ckpt")  # a pickled object of a class
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        read_stage1(tmp_path / "code.ckpt")
    (tmp_path / "text.ckpt").write_text("no weights at all")
    with pytest.raises(ValueError, match="cannot be read as weights alone"):
        read_stage1(tmp_path / "text.ckpt")


@pytest.mark.parametrize("content", [{"nets": torch.zeros(1)}, {"state_dict": {}}, torch.zeros(1)])
def test_another_file_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"no tensors in \[\"nets\"\]\[\"nets\"\]"):
        read_stage1(tmp_path / "other.ckpt")
    with pytest.raises(FileNotFoundError, match="no Stage-1 file"):
        read_stage1(tmp_path / "nowhere.ckpt")


def test_a_robot_that_both_know_keeps_its_layers_and_others_stay_behind(make_scaledp: Callable) -> None:
    taught, head = make_scaledp(**ROBOTS), make_scaledp(embodiments=("hand",), action_dims=(2,), state_dims=(0,))
    report = transplant_stage1(under_stage1_names(taught), head)
    assert not report.unexpected
    assert report.missing == ("cond_obs_emb.bias", "cond_obs_emb.weight")
    assert len(report.ignored) == 2 * OWN + 2
    source = taught.state_dict()
    assert torch.equal(head.x_embedder.weight, source["embodiments.hand.x_embedder.weight"] + 1)
    assert torch.equal(head.blocks[0].mlp.fc1.weight, source["blocks.0.mlp.fc1.weight"] + 1)


def test_a_head_for_the_same_robots_or_for_unknown_ones(make_scaledp: Callable) -> None:
    taught = make_scaledp(**ROBOTS)
    same = transplant_stage1(under_stage1_names(taught), make_scaledp(**ROBOTS))
    assert (len(same.ignored), len(same.missing)) == (2, 2)
    unknown = transplant_stage1(under_stage1_names(taught), make_scaledp())
    assert (len(unknown.ignored), len(unknown.missing)) == (3 * OWN + 2, OWN + 2)


@pytest.mark.parametrize("written", [2, 3])
def test_a_stage1_checkpoint_of_any_format_has_the_published_names(
    tmp_path: Path, make_scaledp: Callable, written: int
) -> None:
    robots = {"embodiments": ("arm", "hand"), "action_dims": (3, 2), "state_dims": (2, 0)}
    sizes = {"action_dim": 3, "state_dim": 2, "cond_dim": 12, "horizon": 4, "width": 16, "depth": 2, "heads": 2}
    sizes |= {"combine_width": 256, "time_size": 256}
    expert = DexVLAExpert(DexVLAExpertConfig(head=ScaleDPConfig(**sizes, **robots)))
    state = expert.state_dict() if written == 3 else STAGE1_NAMES.state(expert)
    save_file({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "model.safetensors")
    config = {**config_to_json("dexvla-expert", expert.config), "format": written}
    (tmp_path / "config.json").write_text(json.dumps(config))
    arm = {"embodiments": ("arm",), "action_dims": (3,), "state_dims": (2,)}
    head = make_scaledp(**arm, **sizes)
    report = transplant_stage1(read_stage1(tmp_path), head)
    assert report.missing == ("cond_obs_emb.bias", "cond_obs_emb.weight")
    assert torch.equal(head.pos_embed, expert.head.denoiser.pos_embed + 1)
    left = {n for n in STAGE1_NAMES.state(expert) if not n.startswith("noise_pred_net.")}
    assert left < set(report.ignored)

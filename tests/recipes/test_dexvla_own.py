"""DexVLA on one's own data sets: Stage 1 from two robots, then Stages 2 and 3 of one, with what Stage 1 knows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.data.recording import ARM, annotated, write
from visuomotor.contract import Episode
from visuomotor.embodiment import Camera, Embodiment
from visuomotor.models.dexvla import DexVLA
from visuomotor.policy import load_policy
from visuomotor.recipes import find_recipe, override
from visuomotor.training.trainer import train

HEAD = {"head.depth": "1", "head.width": "32"}
FAST = {"batch_size": "4", "validate_every": "0", "precision": "float32", "checkpoint_activations": "false"}


def other() -> Embodiment:
    """A robot with two cameras, fewer actions and another rate."""
    side = Camera(name="side", role="left", height=32, width=32)
    return replace(ARM, name="other", cameras=(*ARM.cameras, side), action=ARM.action[:1], state=ARM.state[:2])


def seen_by_other(recorded: Episode) -> Episode:
    recorded = annotated(recorded)
    images = {**recorded.images, "side": recorded.images["front"][:, ::-1].copy()}
    return replace(recorded, images=images, actions=recorded.actions[:, :3], state=recorded.state[:, :5])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write(folder / "arm", annotated)
    write(folder / "task", annotated)
    write(folder / "other", seen_by_other, robot=other())
    return folder


@pytest.fixture(scope="module")
def expert(data: Path) -> Path:
    """Stage 1's last checkpoint."""
    run = find_recipe("dexvla-expert")(
        data=str(data / "arm"), others=(str(data / "other"), str(data / "task")), size="nano", steps=2
    )
    stage = {f"stages.expert.{name}": value for name, value in FAST.items()}
    run = override(
        run, {**stage, **{f"config.{name}": value for name, value in HEAD.items()}, "config.image_size": "32"}
    )
    assert run.processor["image_roles"] == ("scene", "left")
    assert run.processor["optional_roles"] == ("left",)
    return train(run, data / "expert", threads=1)


def test_stage_1_takes_robots_with_other_cameras(expert: Path) -> None:
    model = load_policy(expert).model
    assert model.config.head.embodiments == ("arm", "other")
    assert model.config.head.action_dims == (ARM.action_dim, 3)
    assert set(model.backbone.encoders) == {"scene", "left"}


def test_stages_2_and_3_go_on_from_it(data: Path, expert: Path) -> None:
    run = find_recipe("dexvla")(
        data=str(data / "arm"), task=str(data / "task"), expert=str(expert), size="nano", steps=4, adapt=0.5
    )
    changes = {f"stages.{stage}.{name}": value for stage in run.stages for name, value in FAST.items()}
    sizes = {"llm.layers": "1", "vision.layers": "1", **HEAD}
    run = override(run, {**changes, **{f"config.{name}": value for name, value in sizes.items()}})
    assert [stage.steps for stage in run.stages.values()] == [2, 2]
    assert run.stages["adapt"].final_lr == 0.0
    last = train(run, data / "vla", threads=1)
    report = json.loads((data / "vla" / "transplant.json").read_text())["public weights"]
    assert report["missing"] == ["policy_head.cond_obs_emb.bias", "policy_head.cond_obs_emb.weight"]
    policy = load_policy(last)
    assert isinstance(policy.model, DexVLA)
    assert policy.think == ("subtask",)  # it was trained to
    first, final = (load_file(folder / "model.safetensors") for folder in (expert, last))
    moved = final["head.denoiser.blocks.0.mlp.fc1.weight"], first["head.denoiser.blocks.0.mlp.fc1.weight"]
    assert not torch.equal(*moved)
    assert torch.allclose(*moved, atol=1e-3)  # four steps from where Stage 1 left it


def test_what_stands_still_is_the_papers_or_the_adapters(data: Path) -> None:
    recipe, arm = find_recipe("dexvla"), str(data / "arm")
    assert recipe(data=arm, vlm="qwen").stages["align"].trains == {"*": 2e-5, "vision": 0.0}
    assert recipe(data=arm, vlm="qwen", freeze_vision=False).stages["align"].trains == {"*": 2e-5}
    assert recipe(data=arm).stages["align"].trains == {"*": 2e-5}  # from nothing it must learn to see
    adapted = recipe(data=arm, vlm="qwen", lora=64).stages["align"]
    assert (adapted.lora_alpha, adapted.lora_parts) == (256, ("llm",))
    assert {part for part, rate in adapted.trains.items() if not rate} == {"vision", "embed", "merger"}
    both = recipe(data=arm, vlm="qwen", lora=64, freeze_vision=False).stages["align"]
    assert both.lora_parts == ("llm", "vision")
    released = recipe(data=arm, vlm="qwen", expert="file")
    assert released.weights == {"vlm": "qwen", "head": "file"}
    assert released.config.head.time_table == "bfloat16"  # as the released trunk has learned
    assert released.processor["augment"].crop == 0.05  # and published photographs are cropped and turned
    assert (
        recipe(data=arm, expert=str(data)).config.head.time_table
        == recipe(data=arm).config.head.time_table
        == "float32"
    )
    assert list(recipe(data=arm).stages) == ["align"]
    with pytest.raises(ValueError, match="adapt is 1"):
        recipe(data=arm, adapt=1)

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.data.fakes import FakeDataset, embodiment
from visuomotor.contract import Run
from visuomotor.data.lerobot import DataError
from visuomotor.models import make_config
from visuomotor.models.dexvla import DexVLA
from visuomotor.models.dexvla.expert import DexVLAExpert
from visuomotor.policy import load_policy
from visuomotor.recipes import find_recipe, override
from visuomotor.training import assembly
from visuomotor.training.trainer import train

SIZE = 32
SMALL = {
    "config.llm.layers": "1", "config.vision.layers": "1", "config.head.depth": "1", "config.head.width": "32",
    "before.config.head.depth": "1", "before.config.head.width": "32",
}  # fmt: skip


class TwoRobots(FakeDataset):
    """What `Dataset(path)` returns here: an arm at 10 Hz, or a robot with fewer actions and other cameras at 40 Hz."""

    def __init__(self, path: str | Path) -> None:
        robot = embodiment(SIZE)
        if Path(path).name == "sawyer":
            cameras = tuple(dataclasses.replace(c, name=f"other {c.name}") for c in robot.cameras)
            robot = dataclasses.replace(
                robot, name="sawyer", control_hz=40.0, cameras=cameras, state=robot.state[:2], action=robot.action[:1]
            )
        super().__init__(seed=len(str(path)), robot=robot, size=SIZE)

    def hash(self) -> str:
        return f"hash of {self.root}"


@pytest.fixture(autouse=True)
def _data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "open_source", TwoRobots)


def small(steps: int = 4, **arguments: Any) -> Run:
    """A few steps of everything at a few thousand parameters."""
    given = {"data": "arm", "sawyer": "sawyer", "task": "task", "image_size": SIZE, "expert": 0.5, "adapt": 0.25}
    run = find_recipe("dexvla-nano")(steps=steps, **{**given, **arguments})
    changes = {n: v for n, v in SMALL.items() if run.before is not None or not n.startswith("before")}
    for at, stages in (("before.", run.before.stages if run.before else ()), ("", run.stages)):
        changes |= {f"{at}stages.{stage}.batch_size": "8" for stage in stages}
        changes |= {f"{at}stages.{stage}.validate_every": "0" for stage in stages}
    return override(run, changes)


def test_the_three_stages_are_those_of_the_paper() -> None:
    given = {"data": "arm", "sawyer": "s", "task": "t", "steps": 100, "minutes": 20, "expert": 0.5, "adapt": 0.2}
    run = find_recipe("dexvla-nano")(**given, align_final_lr=1.0, text_weight=1.0)
    assert run.before is not None
    assert run.config.text_weight == 1
    assert run.processor["tell_state"] is run.before.processor["tell_state"] is True
    blind = find_recipe("dexvla-nano")(**given, state=False)
    assert blind.processor["tell_state"] is blind.before.processor["tell_state"] is False
    assert find_recipe("dexvla-nano")(**given).stages["align"].final_lr < 1
    expert, align, adapt = *run.before.stages.values(), *run.stages.values()
    assert [s.steps for s in (expert, align, adapt)] == [50, 30, 20]
    assert [s.minutes for s in (expert, align, adapt)] == pytest.approx([10, 6, 4])
    assert [[source.path for source in s.mixture.sources] for s in (expert, align, adapt)] == [
        ["arm", "t", "s"], ["arm"], ["t"],
    ]  # fmt: skip
    assert [s.final_lr for s in (expert, align, adapt)] == [1.0, 1.0, 0.0]
    assert run.weights == {"head": "before"}
    assert run.before.processor["sentence_of"] == "subtask"
    assert run.processor["levels"] == {"subtask": 1.0}
    assert run.evaluation is not None
    assert run.evaluation.think == ("subtask",)


def test_options_are_the_arms_of_the_ablation() -> None:
    recipe = find_recipe("dexvla-nano")
    alone = recipe(expert=0)
    assert (alone.before, alone.weights) == (None, {})
    assert recipe(expert=0, head="unet").config == make_config("dexvla", "nano-UNet", text_weight=0.05)
    later, never = recipe(substeps="stage2"), recipe(substeps="none")
    assert later.before.processor["sentence_of"] == never.before.processor["sentence_of"] == "instruction"
    assert (later.processor["levels"], never.processor["levels"]) == ({"subtask": 1.0}, {"subtask": 0.0})
    assert never.evaluation.think == ()
    assert recipe(freeze_vision=True).stages["align"].trains["vision"] == 0.0
    assert list(recipe(adapt=0).stages) == ["align"]
    used = (
        recipe(adapt=0).before.stages["expert"].mixture.sources
    )  # the statistics of Stages 1 and 2 are of the same data
    assert [source.name for source in used] == ["tabletop", "sawyer"]
    with pytest.raises(ValueError, match="no UNet can take over"):
        recipe(head="unet")
    with pytest.raises(ValueError, match="shares of the training"):
        recipe(expert=0.8, adapt=0.4)
    with pytest.raises(ValueError, match="substeps is 'all'"):
        recipe(substeps="all")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted training."""
    out = tmp_path_factory.mktemp("curriculum")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "open_source", TwoRobots)
        train(small(), out, threads=1)
    return out


def test_all_three_stages_train_and_the_trunk_moves_on(whole: Path) -> None:
    expert = load_policy(whole / "expert" / "checkpoints" / "step-000002")
    policy = load_policy(whole / "checkpoints" / "step-000002")
    assert isinstance(expert.model, DexVLAExpert)
    assert isinstance(policy.model, DexVLA)
    assert expert.model.config.head.embodiments == ("arm", "sawyer")
    assert expert.model.config.head.action_dims == (6, 3)
    assert expert.processor.statistics[0] == policy.processor.statistics[0]  # the arm's numbers mean the same
    report = json.loads((whole / "transplant.json").read_text())["public weights"]
    assert report["missing"] == ["policy_head.cond_obs_emb.bias", "policy_head.cond_obs_emb.weight"]
    assert not (report["unexpected"])
    assert not (report["mismatched"])
    assert any("embodiments.sawyer" in name for name in report["ignored"])
    seen = FakeDataset(robot=embodiment(SIZE), size=SIZE).observation(3)
    chunk = policy.infer([seen], seeds=[0])[0]
    assert chunk.actions.shape == (8, 6)
    assert policy.think == ("subtask",)
    assert ("subtask" in chunk.text) != (chunk.extras.get("unfinished") == ["subtask"])


def test_a_policy_drives_the_robot_that_it_learnt_last() -> None:
    run = small(adapt=0.25, task="sawyer")
    datasets = assembly.open_datasets(run, Path("cache"))
    processor = assembly.build_processor(run, datasets)
    assert [known.name for known in processor.embodiments] == ["arm", "sawyer"]
    assert assembly.driven_robot(run, datasets, processor).name == "sawyer"
    assert assembly.driven_robot(small(adapt=0.0), datasets, processor).name == "arm"


def test_batches_of_stage_1_mix_the_robots() -> None:
    run = small().before
    assert run is not None
    datasets = assembly.open_datasets(run, Path("unused"))
    data = assembly.DataSource(datasets=datasets, processor=assembly.build_processor(run, datasets))
    loader = assembly.train_loader(dataclasses.replace(run.stages["expert"], batch_size=16), data)
    batch = next(loader)
    loader.close()
    assert set(batch.embodiment.tolist()) == {0, 1}
    assert not batch.action_valid[batch.embodiment == 1][..., 3:].any()  # type: ignore[index]
    model = assembly.build_model(run, data.processor)
    model.loss(batch, generator=torch.Generator().manual_seed(0)).total.backward()


def test_stopped_between_the_models_and_resumed_equals_uninterrupted(tmp_path: Path, whole: Path) -> None:
    assert train(small(), tmp_path / "cut", stop_after_seconds=0.0, threads=1).parents[1].name == "expert"

    def stop(_: object) -> None:
        raise DataError(Path("x"), "the power failed")

    with pytest.raises(DataError):
        train(small(), tmp_path / "cut", resume=True, progress=stop, threads=1)
    again = train(small(), tmp_path / "cut", resume=True, threads=1)
    left, right = (load_file(folder / "model.safetensors") for folder in (whole / "checkpoints" / again.name, again))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_other_stages_go_into_no_other_head(tmp_path: Path) -> None:
    model = DexVLA(find_recipe("dexvla-nano")(expert=0, head="unet").config)
    with pytest.raises(ValueError, match="Stage 1 is a ScaleDP, but the head of this model is a UNet"):
        model.load_backbones({"head": str(tmp_path)})

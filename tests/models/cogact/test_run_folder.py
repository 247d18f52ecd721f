import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.text.test_llama import write_model
from visuomotor.cli.main import main
from visuomotor.contract import Observation
from visuomotor.models.cogact import run_folder
from visuomotor.models.cogact.convert import read_published
from visuomotor.models.cogact.robots import ROBOTS
from visuomotor.models.cogact.run_folder import find_checkpoint, processor_of, read_run
from visuomotor.policy import Policy, load_policy
from visuomotor.text.tokenizer import TextTokenizer

HEADS: dict[str, Any] = {"vision_heads": 2, "llm_heads": 4, "action_heads": 2}
LOW, HIGH = [-0.02, -0.05, -0.03, -0.1, -0.2, -0.3, 0.0], [0.03, 0.04, 0.02, 0.3, 0.1, 0.2, 1.0]


def statistics(low: list[float], mask: list[bool] | None = None) -> dict[str, Any]:
    action = {"min": low, "max": HIGH, "mean": [0.0] * 7, "std": [1.0] * 7, "q01": low, "q99": HIGH}
    action["mask"] = mask or [True] * 6 + [False]  # type: ignore[assignment]
    return {"action": action, "proprio": {}, "num_transitions": 5, "num_trajectories": 1}


@pytest.fixture
def folder(world: Any, tmp_path: Path) -> Path:
    """A run whose vocabulary is that of a small LLaMA tokenizer."""
    root = tmp_path / "CogACT-Tiny"
    (root / "checkpoints").mkdir(parents=True)
    table = torch.randn(320, 32, generator=torch.Generator().manual_seed(0))
    llm = {**world.parts["llm_backbone"], "llm.model.embed_tokens.weight": table}
    torch.save({"model": {**world.parts, "llm_backbone": llm}}, root / "checkpoints" / "CogACT-Tiny.pt")
    both = {"fractal20220817_data": statistics(LOW), "bridge_orig": statistics([2 * x for x in LOW])}
    (root / "dataset_statistics.json").write_text(json.dumps(both))
    (root / "config.json").write_text(json.dumps({"action_model_type": "DiT-Tiny"}))
    return root


@pytest.fixture
def words(tmp_path: Path) -> TextTokenizer:
    return TextTokenizer.from_llama(write_model(tmp_path / "llama"))


def look(seed: int = 0) -> Observation:
    image = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Observation(images={"image": image}, state=np.zeros(0), instruction="Pick up the CAN")


@pytest.mark.parametrize(("robot", "scale"), [("google_robot", 1), ("widowx", 2)])
def test_a_run_becomes_a_policy_that_acts_as_published(
    world: Any, folder: Path, words: TextTokenizer, robot: str, scale: int
) -> None:
    run = read_run(folder, **HEADS)
    assert run.report.complete
    assert sum(name.startswith("action_model.") for name in run.report.loaded) == len(world.action.state_dict())
    policy = Policy(run.model, processor_of(run, ROBOTS[robot], words))
    chunk = policy.infer([look()], seeds=[3])[0].actions
    batch = policy.processor.observations([look()])
    noise = torch.randn(1, 4, 7, generator=torch.Generator().manual_seed(3))
    feature = run.model.encode(batch).states[-1]
    normalised = world.action.sample(feature, noise)[0].numpy().clip(-1, 1)
    low, high = np.array(LOW[:6]) * scale, np.array(HIGH[:6])
    np.testing.assert_allclose(chunk[:, :6], 0.5 * (normalised[:, :6] + 1) * (high - low) + low, atol=1e-5)
    np.testing.assert_array_equal(chunk[:, 6], np.where(normalised[:, 6] < 0.5, 0, 1))
    assert batch.images["image"].shape == (1, 20, 30, 3)  # squeezed by the model
    assert (policy.processor.config.horizon, policy.embodiment.control_hz) == (4, 3.0 if scale == 1 else 5.0)


def test_a_run_without_action_model_gets_a_fresh_one_aloud(
    world: Any, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = find_checkpoint(folder)
    torch.save({"model": {name: part for name, part in world.parts.items() if name != "action_model"}}, file)
    run = read_run(file, **HEADS)
    assert "must be trained" in caplog.text
    config = run.model.config
    head = config.action_model
    assert (head.width, head.depth, head.horizon, head.token_size, config.llm.width) == (768, 12, 16, 32, 32)
    assert not any(parameter.is_meta for parameter in run.model.parameters())


def test_a_tower_without_class_token_is_described_as_it_is(world: Any, folder: Path) -> None:
    file = find_checkpoint(folder)
    vision = {n: t for n, t in world.parts["vision_backbone"].items() if not n.endswith("cls_token")}
    torch.save({"model": {**world.parts, "vision_backbone": vision}}, file)
    assert not read_run(file, **HEADS).model.config.dinov2.class_token


def test_convert_writes_the_policy(
    folder: Path,
    words: TextTokenizer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_folder, "read_published", lambda path, **_: read_published(path, **HEADS))
    out, llama = str(tmp_path / "out"), str(tmp_path / "llama")
    assert main(["convert", str(folder), "--out", out, "--robot", "widowx"]) == 1
    assert "--tokenizer FOLDER" in capsys.readouterr().err
    assert main(["convert", str(folder), "--out", out, "--tokenizer", llama]) == 1
    assert "--robot one of google_robot, widowx" in capsys.readouterr().err
    given = ["--out", out, "--robot", "widowx", "--tokenizer", llama]
    assert main(["convert", str(folder / "checkpoints" / "CogACT-Tiny.pt"), *given]) == 0
    assert "tensors loaded" in capsys.readouterr().out
    policy = load_policy(out)
    assert policy.provenance["published_config"] == {"action_model_type": "DiT-Tiny"}
    run = read_run(folder, **HEADS)
    expected = Policy(run.model, processor_of(run, ROBOTS["widowx"], words)).infer([look()], seeds=[0])[0]
    np.testing.assert_allclose(policy.infer([look()], seeds=[0])[0].actions, expected.actions, atol=1e-6)


def test_what_does_not_fit_is_refused(folder: Path, words: TextTokenizer) -> None:
    run, robot = read_run(folder, **HEADS), ROBOTS["widowx"]

    def refused(match: str, changed: dict[str, Any] | None = None, **options: Any) -> None:
        given = run if changed is None else replace(run, statistics=changed)
        with pytest.raises(ValueError, match=match):
            processor_of(given, options.pop("embodiment", robot), words, **options)

    refused("has none of 'kuka'; choose one of fractal20220817_data, bridge_orig", dataset="kuka")
    refused("has those of 2 data sets", embodiment=replace(robot, name="mine"))
    refused("has none of 'bridge_orig'", {"other": statistics(LOW)})
    refused("robot 'widowx' 6", embodiment=replace(robot, action=robot.action[:2]))
    refused("some dimensions of 'rotation'", {"bridge_orig": statistics(LOW, [True] * 5 + [False] * 2)})
    refused("no actions with min", {"bridge_orig": {"action": {"min": LOW}}})
    only = replace(run, statistics={"other": statistics(LOW)})
    mine = replace(robot, name="mine")
    assert processor_of(only, mine, words).embodiments[0].name == "mine"  # the only ones are taken
    (folder / "checkpoints" / "other.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"several checkpoints \(CogACT-Tiny.pt, other.pt\)"):
        find_checkpoint(folder)
    with pytest.raises(FileNotFoundError, match="no checkpoints"):
        find_checkpoint(folder / "checkpoints")

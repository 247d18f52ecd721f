"""Published folders of small models under openpi's and LeRobot's names, and the policies that they become."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.pi0.reference import OUTPUT, TOP, published_names
from tests.text.test_pi0 import gemma_tokenizer
from visuomotor.cli.main import main
from visuomotor.contract import Embodiment, Observation
from visuomotor.models.dm0.robots import ROBOTS
from visuomotor.models.pi0 import SPEC, from_published
from visuomotor.models.pi0.folders import read_policy, recognise, write_policy
from visuomotor.policy import Policy, load_policy

# openpi's "dummy" decoders, and a tower of one head of the published width.
SHAPE = {
    "width": 64, "mlp": 128, "expert": 64, "expert_mlp": 128, "tower": 72, "tower_mlp": 48, "patch": 8, "patches": 16,
    "action": 9, "vocabulary": 208, "heads": 8, "head_dim": 16,
}  # fmt: skip
ROBOT = replace(ROBOTS["franka"], cameras=ROBOTS["franka"].cameras[:2])  # 6 numbers of the tool and a gripper
UNUSED = TOP + "gemma_expert.lm_head.weight"
OPENPI = {
    "action_dim": 9, "action_horizon": 5, "paligemma_variant": "dummy", "action_expert_variant": "dummy",
    "precision": "float32",
}  # fmt: skip
STATE = np.linspace(-0.5, 0.5, 7).astype(np.float32)


def file_tensors(adaptive: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = published_names(adaptive=adaptive, tower_layers=1, layers=4, shape=SHAPE)
    return {n: 0.2 * torch.randn(size, generator=generator) for n, size in names}


def vectors(dims: int) -> dict[str, dict[str, list[float]]]:
    block = {
        "mean": [0.1 * i for i in range(dims)], "std": [0.5 + 0.1 * i for i in range(dims)],
        "q01": [-1.0 - 0.1 * i for i in range(dims)], "q99": [1.5 + 0.1 * i for i in range(dims)],
    }  # fmt: skip
    return {"state": block, "action": {name: [2 * x for x in values] for name, values in block.items()}}


def openpi_folder(path: Path, adaptive: bool) -> Path:
    path.mkdir()
    save_file(file_tensors(adaptive), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(OPENPI))
    numbers = vectors(7)
    write_assets(path, "physical-intelligence/tiny", {"state": numbers["state"], "actions": numbers["action"]})
    gemma_tokenizer().save(str(path / "tokenizer.json"))
    return path


def write_assets(path: Path, name: str, numbers: dict[str, Any]) -> None:
    folder = path / "assets" / name
    folder.mkdir(parents=True)
    (folder / "norm_stats.json").write_text(json.dumps({"norm_stats": numbers}))


def lerobot_folder(path: Path, adaptive: bool, modes: dict[str, str]) -> Path:
    path.mkdir()
    save_file({f"model.{name}": t for name, t in file_tensors(adaptive).items()}, path / "model.safetensors")
    config = {"type": "pi05" if adaptive else "pi0", "chunk_size": 5, "paligemma_variant": "dummy"}
    (path / "config.json").write_text(json.dumps(config))
    state_file = "policy_preprocessor_step_2_normalizer_processor.safetensors"
    steps = [
        {"registry_name": "rename_observations_processor", "config": {}},
        {"registry_name": "normalizer_processor", "config": {"norm_map": modes}, "state_file": state_file},
    ]
    (path / "policy_preprocessor.json").write_text(json.dumps({"name": "policy_preprocessor", "steps": steps}))
    numbers = {"observation.state": vectors(7)["state"], "action": vectors(7)["action"]}
    flat = {f"{what}.{name}": torch.tensor(x) for what, block in numbers.items() for name, x in block.items()}
    save_file({**flat, "observation.images.top.mean": torch.zeros(3, 1, 1)}, path / state_file)
    gemma_tokenizer().save(str(path / "tokenizer.json"))
    return path


def observation() -> Observation:
    images = {c.name: np.full((32, 32, 3), 90 + 40 * i, np.uint8) for i, c in enumerate(ROBOT.cameras)}
    return Observation(images=images, state=STATE, instruction="open_the drawer ")


def policy_of(folder: Path, robot: Embodiment = ROBOT, **options: Any) -> Policy:
    published = read_policy(folder, robot, **options)
    return Policy(published.model, published.processor, steps=3)


def test_the_policy_computes_what_the_published_code_does(tmp_path: Path, adaptive: bool) -> None:
    policy = policy_of(openpi_folder(tmp_path / "tiny", adaptive))
    chunk = policy.infer([observation()], seeds=[5])[0].actions
    # The same by hand: plain tensors, statistics of the file, pieces of text, differences to the state.
    numbers = {what: {n: np.array(x) for n, x in block.items()} for what, block in vectors(7).items()}
    if adaptive:
        low, high = numbers["state"]["q01"], numbers["state"]["q99"]
        state = (STATE - low) / (high - low + 1e-6) * 2 - 1
    else:
        state = (STATE - numbers["state"]["mean"]) / (numbers["state"]["std"] + 1e-6)
    words, encode = policy.processor.tokenizer, policy.processor.tokenizer.encode_once
    ids = [words.begin_id, *encode("open the drawer"), *encode("\n")]
    if adaptive:
        bins = " ".join(str(int(b)) for b in np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1)
        ids = [words.begin_id, *encode(f"Task: open the drawer, State: {bins};\nAction: ")]
    pictures = torch.stack([torch.full((3, 32, 32), (90 + 40 * i) / 255 * 2 - 1) for i in range(2)])
    padded = torch.zeros(1, 9)
    padded[0, :7] = torch.from_numpy(state)
    model = from_published(file_tensors(adaptive), vision_heads=1, head_dim=16, chunk_size=5)
    raw = model.sample_actions(
        pictures[None], torch.ones(1, 2, dtype=torch.bool), torch.tensor([ids]),
        torch.ones(1, len(ids), dtype=torch.bool), None if adaptive else padded,
        torch.randn((1, 5, 9), generator=torch.Generator().manual_seed(5)), 3,
    )[0, :, :7].numpy()  # fmt: skip
    action = numbers["action"]
    if adaptive:
        expected = (raw + 1) / 2 * (action["q99"] - action["q01"] + 1e-6) + action["q01"]
    else:
        expected = raw * (action["std"] + 1e-6) + action["mean"]
    expected[:, :6] += STATE[:6]  # the gripper is no difference
    np.testing.assert_allclose(chunk, expected, atol=1e-4)


def test_what_is_written_is_read_back(tmp_path: Path, adaptive: bool) -> None:
    folder = openpi_folder(tmp_path / "tiny", adaptive)
    published = read_policy(folder, ROBOT)
    write_policy(published.model, published.processor, tmp_path / "again")  # type: ignore[arg-type]
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert after.keys() == before.keys() - {UNUSED}
    assert all(torch.equal(after[name], before[name]) for name in after)
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == OPENPI
    again = policy_of(tmp_path / "again")
    chunks = [p.infer([observation()], seeds=[1])[0].actions for p in (policy_of(folder), again)]
    np.testing.assert_allclose(*chunks, atol=1e-3)  # memory of a file is aligned in another way
    with pytest.raises(FileExistsError):
        write_policy(published.model, published.processor, tmp_path / "again")  # type: ignore[arg-type]


def test_convert_goes_both_ways(tmp_path: Path, adaptive: bool, capsys: pytest.CaptureFixture[str]) -> None:
    folder = openpi_folder(tmp_path / "tiny", adaptive)
    ROBOT.save(tmp_path / "robot.json")
    ours, back = tmp_path / "ours", tmp_path / "back"
    assert main(["convert", str(folder), "--out", str(ours), "--robot", str(tmp_path / "robot.json")]) == 0
    assert f"{len(file_tensors(adaptive)) - 1} tensors loaded, 1 ignored" in " ".join(capsys.readouterr().out.split())
    assert main(["convert", str(ours), "--out", str(back)]) == 0
    chunks = [p.infer([observation()], seeds=[1])[0].actions for p in (policy_of(back), load_policy(ours, steps=3))]
    np.testing.assert_allclose(*chunks, atol=1e-3)  # memory of a file is aligned in another way


@pytest.mark.parametrize(("modes", "methods"), [
    ({"STATE": "QUANTILES", "ACTION": "QUANTILES", "VISUAL": "IDENTITY"}, ("quantile", "quantile")),
    ({"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}, ("mean_std", "mean_std")),
    ({"STATE": "IDENTITY", "ACTION": "QUANTILES"}, ("none", "quantile")),
])  # fmt: skip
def test_lerobots_file_decides_the_normalisation(
    tmp_path: Path, adaptive: bool, modes: dict[str, str], methods: tuple[str, str]
) -> None:
    folder = lerobot_folder(tmp_path / "tiny", adaptive, modes)
    assert recognise(folder)
    processor = read_policy(folder, ROBOT).processor
    robot = processor.embodiments[0]
    assert {c.normalization for c in robot.state} == {methods[0]}
    assert {c.normalization for c in robot.action} == {methods[1]}
    assert processor.statistics[0].action.q99 == pytest.approx(tuple(vectors(7)["action"]["q99"]))
    # LeRobot's actions are absolute unless its configuration says otherwise.
    assert processor.config.action_reference == "embodiment"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "use_relative_actions": True}))
    assert read_policy(folder, ROBOT).processor.config.action_reference == "chunk_start"


@pytest.mark.parametrize("adaptive", [True])
def test_the_state_may_be_left_out_of_the_text(tmp_path: Path, adaptive: bool) -> None:
    folder = openpi_folder(tmp_path / "tiny", adaptive)
    policy = policy_of(folder, state="none")
    batch = policy.processor.observations([observation()])
    words = policy.processor.tokenizer
    assert words.decode(batch.text_ids[0][batch.text_valid[0]].numpy()) == "open the drawer\n"
    assert policy.infer([observation()], seeds=[0])[0].actions.shape == (5, 7)


@pytest.mark.parametrize("adaptive", [False])
def test_one_of_several_assets_is_named(tmp_path: Path, adaptive: bool) -> None:
    folder = openpi_folder(tmp_path / "tiny", adaptive)
    numbers = vectors(9)
    write_assets(folder, "droid", {"state": numbers["action"], "actions": numbers["action"]})
    with pytest.raises(ValueError, match=r"\['droid', 'physical-intelligence/tiny'\].*--statistics"):
        read_policy(folder, ROBOT)
    assert read_policy(folder, ROBOT, statistics="droid").processor.statistics[0].state.std[0] == 1.0
    with pytest.raises(ValueError, match="'ur5e' is wanted"):
        read_policy(folder, ROBOT, statistics="ur5e")


def test_folders_that_cannot_be_read(tmp_path: Path, adaptive: bool) -> None:
    folder = openpi_folder(tmp_path / "openpi", adaptive)
    numbers = vectors(7)
    path = next((folder / "assets").rglob("norm_stats.json"))
    read = "q99" if adaptive else "std"
    path.write_text(
        json.dumps({"norm_stats": {"state": {**numbers["state"], read: None}, "actions": numbers["action"]}})
    )
    with pytest.raises(ValueError, match=f"0 values of '{read}'"):
        read_policy(folder, ROBOT)
    path.write_text(json.dumps({"state": vectors(3)["state"], "actions": vectors(3)["action"]}))
    with pytest.raises(ValueError, match="has 7 state dimensions, but the published statistics have 3"):
        read_policy(folder, ROBOT)
    path.unlink()
    with pytest.raises(ValueError, match=r"has statistics \[\]"):
        read_policy(folder, ROBOT)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="--tokenizer FOLDER with PaliGemma's"):
        read_policy(folder, ROBOT)
    other = lerobot_folder(tmp_path / "lerobot", adaptive, {"STATE": "MIN_MAX"})
    with pytest.raises(ValueError, match="normalises by 'MIN_MAX'"):
        read_policy(other, ROBOT)
    kind = "pi0" if adaptive else "pi05"
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "type": kind}))
    with pytest.raises(ValueError, match=f"says '{kind}', but the tensors are of the other kind"):
        read_policy(other, ROBOT)


def test_a_policy_that_openpi_cannot_run_is_not_written(tmp_path: Path, adaptive: bool) -> None:
    published = read_policy(openpi_folder(tmp_path / "tiny", adaptive), ROBOT, normalization="quantile")
    published.processor.config = replace(published.processor.config, tags=True)
    with pytest.raises(ValueError, match=r"cannot hold this policy: .*tags is True, not False"):
        write_policy(published.model, published.processor, tmp_path / "again")  # type: ignore[arg-type]


def test_the_specification_knows_both_kinds() -> None:
    assert {preset.time for preset in SPEC.presets.values()} == {"concatenated", "adaptive"}
    assert SPEC.checkpoint is not None
    assert SPEC.acting == ("expert", "action_io")
    assert OUTPUT in dict(published_names(adaptive=False, tower_layers=1, layers=1, shape=SHAPE))

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.holding import holding, leave_foreign_lock
from tests.models.dm0.conftest import TINY
from tests.text.test_qwen import qwen_folder
from visuomotor.contract import Embodiment, Observation
from visuomotor.data.processor import Processor
from visuomotor.locks import FolderInUse
from visuomotor.models import make_config
from visuomotor.models.dm0 import DM0, from_published
from visuomotor.models.dm0.convert import processor_of, read_published, write_published
from visuomotor.models.dm0.names import NAMES
from visuomotor.models.dm0.robots import ROBOTS
from visuomotor.policy import Policy
from visuomotor.text.tokenizer import TextTokenizer

__all__ = ["qwen_folder"]
ROBOT = ROBOTS["franka"]
SIZES = [(20, 30), (40, 60), (20, 32)]  # of the cameras' images; each is fitted on its own
STATISTICS = {"min": [-1.0] * 8, "max": [3.0] * 8, "mean": [0.5] * 8, "std": [2.0] * 8}


@pytest.fixture
def folder(qwen_folder: Path, tmp_path: Path) -> Path:
    """A published folder of a tiny DM0 with 8 action dimensions, in several shards, with everything unused in it."""
    target = tmp_path / "DM0-tiny"
    target.mkdir()
    for file in qwen_folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    tokenizer = TextTokenizer.from_qwen(qwen_folder)
    tokenizer_files(tokenizer, target)
    torch.manual_seed(0)
    sizes = {**TINY, "llm.vocab_size": tokenizer.vocab_size, "action_dim": 8, "state_dim": 8, "llm.convolution": 0}
    sizes |= {"vision.width": 128, "vision.mlp_width": 128, "progress_token": True}
    model = DM0(make_config("dm0", "nano", **sizes))
    tensors = {**NAMES.state(model), "lm_head.weight": torch.zeros(3, 32)}
    tensors["model.action_expert.lm_head.weight"] = torch.zeros(3, 16)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name].contiguous() for name in part}, str(target / file))
    weight_map = {name: file for file, part in shards.items() for name in part}
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (target / "config.json").write_text(json.dumps({"model_type": "dexbotic_dm0", "action_dim": 8, "chunk_size": 4}))
    stats = {"default": {"min": -1, "max": 1}, "action": STATISTICS, "state": STATISTICS}
    (target / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))
    return target


def tokenizer_files(tokenizer: TextTokenizer, target: Path) -> None:
    from visuomotor.text.qwen import write_qwen

    write_qwen(tokenizer.inner, target)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def observation(value: float = 0.3) -> Observation:
    images = {c.name: np.full((*size, 3), 90, np.uint8) for c, size in zip(ROBOT.cameras, SIZES, strict=True)}
    return Observation(images=images, state=np.full(7, value, np.float32), instruction="open the\ndrawer ")


def test_reads_every_tensor_and_reports_the_unused(folder: Path) -> None:
    published = read_published(folder)
    assert published.report.complete
    unused = {"lm_head.weight", "model.action_expert.lm_head.weight"}
    assert set(published.report.ignored) == unused | {
        f"model.progress_{io}_proj.{k}" for io in ("in", "out") for k in ("weight", "bias")
    }
    assert all(not p.is_meta for p in published.model.parameters())
    raw: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        raw |= load_file(str(file))
    for name, parameter in NAMES.state(published.model).items():
        assert torch.equal(parameter, raw[name])
    config = published.model.config
    assert (config.vision.heads, config.llm.heads, config.llm.kv_heads, config.llm.head_dim, config.image_size) == (
        2,
        4,
        2,
        8,
        32,
    )
    assert (config.horizon, config.action_dim, config.action_start_id) == (4, 8, published.tokenizer.action_start)


def test_prog_is_recognised_by_its_model_type(folder: Path) -> None:
    edit(folder / "config.json", model_type="dexbotic_dm0_prog")
    assert read_published(folder).model.config.progress_token
    assert not read_published(folder, progress=False).model.config.progress_token


@pytest.mark.parametrize("method", ["quantile", "mean_std"])
def test_the_policy_computes_what_the_published_client_does(folder: Path, method: Any) -> None:
    published = read_published(folder, precision="float32")
    policy = Policy(published.model, processor_of(published, ROBOT, method), steps=3)
    chunk = policy.infer([observation()], seeds=[5])[0].actions
    assert chunk.shape == (4, 7)
    # The same by hand: plain tensors, prompt pieces encoded one by one, statistics of the file, delta to the state.
    tensors = {name: p.detach() for name, p in NAMES.state(published.model).items()}
    plain = from_published(
        tensors, image_size=32, patch_size=8, vision_heads=2, num_heads=4, num_kv_heads=2, head_dim=8, action_dim=8,
        chunk_size=4,
    )  # fmt: skip
    pieces = [
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. ",
        "USER: ",
        "open the drawer ",
    ]
    ids = torch.tensor([[i for piece in pieces for i in published.tokenizer.encode(piece).tolist()]])
    views = []
    for height, width in SIZES:
        square = np.full((width, width, 3), 127, np.uint8)
        square[(width - height) // 2 : (width + height) // 2] = 90
        image = torch.from_numpy(square).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(image, (32, 32), mode="bicubic", antialias=True)
        views.append((small / 255 - 0.5) / 0.5)
    images = torch.stack(views, dim=1)
    noise = torch.randn((1, 4, 8), generator=torch.Generator().manual_seed(5))
    mask = torch.ones(1, 3, dtype=torch.bool), torch.ones_like(ids, dtype=torch.bool)
    raw = plain.sample_actions(images, mask[0], ids, mask[1], noise, 3)[0].numpy()
    units = {"quantile": (raw + 1) / 2 * (3.0 - -1.0 + 1e-6) + -1.0, "mean_std": raw * (2.0 + 1e-6) + 0.5}[method]
    units = units[:, :7]
    units[:, :6] += np.float32(0.3)  # the gripper is no difference
    np.testing.assert_allclose(chunk, units, atol=1e-4)


def test_writes_back_what_it_read(folder: Path, tmp_path: Path) -> None:
    published = read_published(folder)
    processor = processor_of(published, ROBOT, "quantile")
    written = write_published(published.model, processor, tmp_path / "again", shard_bytes=20_000)
    assert len(list((tmp_path / "again").glob("model-*-of-*.safetensors"))) > 1
    assert len(written.loaded) == len(published.report.loaded)
    again = read_published(tmp_path / "again")
    for name, parameter in NAMES.state(published.model).items():
        assert torch.equal(parameter, NAMES.state(again.model)[name])
    assert again.model.config == published.model.config
    assert again.statistics is not None
    assert again.statistics.action.q99[:7] == published.statistics.action.q99[:7]
    text = "open the drawer <action_3>"
    assert again.tokenizer.encode(text).tolist() == published.tokenizer.encode(text).tolist()
    with pytest.raises(FileExistsError, match="exists already"):
        write_published(published.model, processor, tmp_path / "again")


def test_a_folder_that_another_process_writes_is_refused(folder: Path, tmp_path: Path) -> None:
    read = read_published(folder)
    processor, target = processor_of(read, ROBOTS["franka"]), tmp_path / "target"
    with holding(target) as holder, pytest.raises(FolderInUse, match=f"process {holder.pid}"):
        write_published(read.model, processor, target)
    leave_foreign_lock(tmp_path / ".target.lock")
    with pytest.raises(FolderInUse, match="host elsewhere"):
        write_published(read.model, processor, target)
    write_published(read.model, processor, target, break_lock=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["DM0-tiny", "target"]


def test_models_that_the_published_code_cannot_run_are_refused(folder: Path, tmp_path: Path) -> None:
    published = read_published(folder)
    processor = processor_of(published, ROBOT, "quantile")
    nano = DM0(make_config("dm0", "nano", **TINY))
    with pytest.raises(ValueError, match=r"llm\.convolution is 4"):
        write_published(nano, processor, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_policies_that_the_layout_cannot_say_are_refused(folder: Path, tmp_path: Path) -> None:
    published = read_published(folder)

    def refused(robot: Embodiment, sentence: str, **config: Any) -> None:
        made = processor_of(published, robot, "quantile")
        made = Processor(replace(made.config, **config), [robot], made.statistics, made.tokenizer)
        with pytest.raises(ValueError, match=sentence):
            write_published(published.model, made, tmp_path / "out")
        assert not list(tmp_path.glob("*out*"))

    plain = replace(ROBOT, action=tuple(replace(c, normalization="none") for c in ROBOT.action))
    refused(plain, "one normalisation for all")
    steps = replace(ROBOT, action=tuple(replace(c, reference="step") for c in ROBOT.action))
    refused(steps, "all actions absolute is False")
    refused(ROBOT, "action_normalization is 'min_max'", action_normalization="min_max")
    refused(ROBOT, "tags is True", tags=True)
    refused(ROBOT, "prompt is 'plain'", prompt="plain")


def test_z_scores_are_guessed_again_after_writing(folder: Path, tmp_path: Path) -> None:
    published = read_published(folder)
    for method in ("quantile", "mean_std"):
        write_published(published.model, processor_of(published, ROBOT, method), tmp_path / method)
        again = processor_of(read_published(tmp_path / method), ROBOT)
        assert {c.normalization for c in again.embodiments[0].state} == {method}


def test_another_rotary_base_is_another_model(folder: Path) -> None:
    edit(folder / "config.json", llm_config={"rope_theta": 1e4, "head_dim": 8})
    with pytest.raises(ValueError, match=r"llm_config: rope_theta is 10000.0, not 1000000.0"):
        read_published(folder)


@pytest.mark.parametrize(("length", "guess"), [(100, "quantile"), (2048, "mean_std")])
def test_a_guessed_normalisation_is_said(
    folder: Path, length: int, guess: str, caplog: pytest.LogCaptureFixture
) -> None:
    edit(folder / "tokenizer_config.json", model_max_length=length)
    published = read_published(folder)
    with caplog.at_level(logging.WARNING):
        processor = processor_of(published, ROBOT)
    assert "guessed" in caplog.text
    assert {c.normalization for c in processor.embodiments[0].action} == {guess}


def test_bad_folders_are_named(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    whole = index.read_text()
    weight_map = json.loads(whole)["weight_map"]
    edit(index, weight_map={**weight_map, "model.extra.weight": "model-00001-of-00002.safetensors"})
    with pytest.raises(ValueError, match=r"lack, the first is model.extra.weight"):
        read_published(folder)
    edit(index, weight_map={**weight_map, "x": "model-00003-of-00003.safetensors"})
    with pytest.raises(FileNotFoundError, match=r"lacks model-00003"):
        read_published(folder)
    index.write_text(whole)
    shard = folder / "model-00002-of-00002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="damaged or truncated"):
        read_published(folder)
    shard.write_bytes(content)
    (folder / "norm_stats.json").write_text(json.dumps({"action": STATISTICS}))
    with pytest.raises(ValueError, match="no 'state'"):
        read_published(folder)
    (folder / "norm_stats.json").unlink()
    with pytest.raises(ValueError, match=r"no norm_stats.json"):
        processor_of(read_published(folder), ROBOT)
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        read_published(folder)

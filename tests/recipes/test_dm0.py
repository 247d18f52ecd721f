"""From public files to a policy: a tiny Qwen3 with its tokenizer, a tiny Perception Encoder."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.data.fakes import CORPUS
from tests.data.recording import write
from visuomotor.cli.main import main
from visuomotor.models import make_model
from visuomotor.models.fit import processor_config
from visuomotor.policy import load_policy
from visuomotor.recipes import find_recipe, override
from visuomotor.text.qwen import QWEN3, WORDS
from visuomotor.training.trainer import train

TINY = {
    "config.vision.image_size": "32",
    "config.vision.patch_size": "8",
    "config.vision.width": "16",
    "config.vision.layers": "1",
    "config.vision.mlp_width": "16",
    "config.llm.width": "32",
    "config.llm.mlp_width": "32",
    "config.expert.width": "16",
    "config.expert.mlp_width": "16",
    "config.llm.layers": "2",
    "config.llm.heads": "4",
    "config.llm.kv_heads": "2",
    "config.llm.head_dim": "8",
    "config.llm.vocab_size": "1500",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("recorded") / "arm"
    write(root, storage="image")
    return str(root)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    )
    inner.add_special_tokens(list(QWEN3))
    inner.save(str(folder / "tokenizer.json"))
    Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=400,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=2,
            head_dim=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vision(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    tower = make_model("dm0", run_of(data).config).backbone.vision.tower  # type: ignore[attr-defined,union-attr]
    torch.save({n: torch.randn_like(t) for n, t in tower.state_dict().items() if "vit_down" not in n}, folder / "a.pt")
    return folder


def run_of(data: str, **options: Any) -> Any:
    recipe = find_recipe("dm0")
    return override(recipe(data=data, size="nano", batch_size=4, horizon=4, **options), TINY)


def test_a_policy_from_public_weights(data: str, llm: Path, vision: Path, tmp_path: Path) -> None:
    run = run_of(data, llm=str(llm), vision=str(vision), lora=2, steps=2, act=0.5)
    run = override(run, {"stages.train.accumulate": "2", "stages.act.accumulate": "2"})
    last = train(run, tmp_path, threads=1)
    policy = load_policy(last)
    tokens = policy.processor.tokenizer
    assert tokens.vocab_size == 300 + 1058
    assert policy.model.config.action_start_id == tokens.action_start == 300 + 151698 - 151643
    public, ours = load_file(llm / "model.safetensors"), load_file(last / "model.safetensors")
    norm = "layers.0.input_layernorm.weight"
    assert torch.equal(ours[f"backbone.llm.{norm}"], public[f"model.{norm}"])  # adapters leave norms alone
    moved = (ours["backbone.llm.embed_tokens.weight"][:300] - public["model.embed_tokens.weight"][:300]).abs().max()
    assert moved < 1e-4
    report = json.loads((tmp_path / "transplant.json").read_text())["public weights"]
    assert not report["missing"]
    assert len(report["loaded"]) == 2 * 11 + 2 + 4 + 14 + 1
    weights = policy.provenance["weights"]
    assert weights["sources"] == {"llm": llm.name, "vision": vision.name}
    assert weights["report"] == "43 tensors loaded"
    first = json.loads((tmp_path / "checkpoints" / "step-000001" / "provenance.json").read_text())["weights"]
    assert first == weights


def test_public_weights_are_loaded_once(data: str, llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(data, llm=str(llm), steps=2, act=0)
    whole = train(run, tmp_path / "a", threads=1)
    train(run, tmp_path / "b", threads=1, stop_after_seconds=0.0)
    monkeypatch.setattr("visuomotor.models.dm0.backbones.load_backbones", None)
    resumed = train(run, tmp_path / "b", resume=True, threads=1)
    left, right = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert all(torch.equal(left[name], right[name]) for name in left)
    for folder in (whole, resumed):
        assert load_policy(folder).provenance["weights"]["loaded"]


def test_the_recipe_fits_the_robot_and_the_backbones(data: str) -> None:
    run = find_recipe("dm0")(data=data, llm="Qwen/Qwen3-0.6B", vision="facebook/PE-Core-S16-384", steps=100)
    assert run.weights == {"llm": "Qwen/Qwen3-0.6B", "vision": "facebook/PE-Core-S16-384"}
    assert run.processor_from.tokenizer == "Qwen/Qwen3-0.6B"
    assert (run.config.llm.width, run.config.vocab_size, run.config.llm.convolution) == (1024, 152701, 0)
    assert processor_config(run).image_size == run.config.image_size == 384
    assert [stage.steps for stage in run.stages.values()] == [70, 30]
    rates = run.stages["train"].trains
    assert rates["llm"] == rates["embed"] == rates["vision"] == 2.5e-5
    assert set(run.stages["act"].trains) == {"expert", "action_io"}
    adapted = find_recipe("dm0")(data=data, llm="Qwen/Qwen3-0.6B", lora=16)
    assert (adapted.stages["train"].lora, adapted.stages["act"].lora) == (16, 0)
    assert adapted.stages["train"].trains["llm"] == adapted.stages["train"].trains["vision"] == 1e-4
    assert find_recipe("dm0")(data=data).config.vocab_size == 1024
    assert find_recipe("dm0")(data=data).processor_from.tokenizer is None


def test_two_origins_are_refused(data: str, llm: Path, tmp_path: Path) -> None:
    run = run_of(data, llm=str(llm), steps=1)
    twice = override(run, {"stages.train.start": "some/checkpoint"})
    with pytest.raises(ValueError, match=r"from public weights .* choose one"):
        train(twice, tmp_path, threads=1)
    with pytest.raises(ValueError, match="name one of them"):
        train(override(run, {"processor_from.checkpoint": "some/checkpoint"}), tmp_path, threads=1)


def test_on_the_command_line(data: str, llm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fields = [part for name, value in TINY.items() for part in (f"--{name}", value)]
    arguments = ["train", "dm0", "--data", data, "--size", "nano", "--llm", str(llm), "--steps", "1", "--act", "0"]
    arguments += ["--batch-size", "2", "--horizon", "4", "--threads", "1"]
    assert main([*arguments, "--out", str(tmp_path / "run"), *fields]) == 0, capfd.readouterr().err
    capfd.readouterr()
    assert main([*arguments[:7], str(tmp_path / "nowhere"), "--out", str(tmp_path / "b"), *fields]) != 0
    assert "hf download" in capfd.readouterr().err

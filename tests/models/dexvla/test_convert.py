"""Published folders of a tiny DexVLA: assembled, and LoRA adapters as peft writes them."""

import json
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.data.fakes import FakeDataset, embodiment
from tests.heads.conftest import randomise
from tests.models.dexvla.conftest import TINY_VLA, make_texts
from tests.text.test_qwen import qwen_folder  # noqa: F401 (a fixture)
from visuomotor.cli.main import main
from visuomotor.codec import update
from visuomotor.models import make_config
from visuomotor.models.dexvla import NAMES, DexVLA, DexVLAConfig
from visuomotor.models.dexvla.convert import is_published, read_published, read_statistics
from visuomotor.policy import load_policy
from visuomotor.text.tokenizer import TextTokenizer
from visuomotor.training.assembly import public_tokenizer

NOISE = torch.randn(2, 1, 4, 6, generator=torch.Generator().manual_seed(3))


def published_config(config: DexVLAConfig) -> dict:
    """As Qwen2-VL's flat config.json, with what DexVLA adds."""
    return {
        "model_type": "dex_vla", "policy_head_type": "scale_dp_policy", "hidden_size": config.llm.width,
        "intermediate_size": config.llm.mlp_width, "num_hidden_layers": config.llm.layers,
        "num_attention_heads": config.llm.heads, "num_key_value_heads": config.llm.kv_heads,
        "vocab_size": config.vocab_size, "rope_theta": 1e6,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "use_sliding_window": False,
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.llm.mrope_sections)},
        "vision_config": {
            "depth": config.vision.layers, "embed_dim": config.vision.width, "num_heads": config.vision.heads,
            "mlp_ratio": config.vision.mlp_ratio, "patch_size": config.vision.patch_size,
            "spatial_merge_size": config.vision.merge, "temporal_patch_size": 2,
        },
        "policy_head_config": {"num_heads": getattr(config.head, "heads", None)},
    }  # fmt: skip


@pytest.fixture
def original(qwen_folder: Path) -> DexVLA:  # noqa: F811
    words = TextTokenizer.from_qwen(qwen_folder, add_dm0_tokens=False)
    ids = {"end_id": words.eos_id, "pad_id": words.pad_id, "image_id": int(words.special("<|image_pad|>")[0])}  # type: ignore[index]
    sizes = {**TINY_VLA, "llm.vocab_size": words.vocab_size + 3, "head.action_dim": 6, "head.state_dim": 6, **ids}
    published = {"image_height": 240, "image_width": 320, "head.time_table": "bfloat16", "head.noise_draws": 1}
    torch.manual_seed(0)
    model = DexVLA(make_config("dexvla", "nano", **{**sizes, **published})).eval()
    randomise(model.head.denoiser)
    randomise(model.head.film)
    return model


@pytest.fixture
def folder(original: DexVLA, qwen_folder: Path, tmp_path: Path) -> Path:  # noqa: F811
    """An assembled checkpoint."""
    path = tmp_path / "published" / "checkpoint-5"
    path.mkdir(parents=True)
    for file in qwen_folder.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    state = {name: tensor.clone() for name, tensor in NAMES.state(original).items()}
    save_file({**state, "lm_head.weight": state["model.embed_tokens.weight"].clone()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(published_config(original.config)))
    return path


def chunk(model: DexVLA) -> Tensor:
    image, state = model.config.image_id, torch.ones(2, 6)
    texts = make_texts([([5, 6, 7], [8, 9]), ([5], [10])], state=state)
    ids = texts.text_ids.where(texts.text_ids != 1, image)
    return model.eval().sample(replace(texts, text_ids=ids), noise=NOISE).actions


def test_an_assembled_checkpoint_acts_as_before(original: DexVLA, folder: Path) -> None:
    assert is_published(folder)
    found = read_published(folder)
    assert found.report.complete
    own = original.config  # but for what the file does not say
    silent = ("head.mean_over", "head.shared_time", "num_views", "initializer_range")
    assert update(found.model.config, {name: attrgetter(name)(own) for name in silent}) == own
    assert torch.equal(chunk(found.model), chunk(original))
    assert read_published(folder, precision="reference").model.backbone.vision.dtype == torch.bfloat16


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None], **config: object) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**data, **config}))


def test_newer_names_are_the_same_tensors(original: DexVLA, folder: Path) -> None:
    def newer(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            if name.startswith(("model.", "visual.")):
                tensors[f"model.language_{name}" if name.startswith("model.") else f"model.{name}"] = tensors.pop(name)

    rewrite(folder, newer)
    assert torch.equal(chunk(read_published(folder).model), chunk(original))


@pytest.mark.parametrize(
    ("change", "config", "sentence"),
    [
        (lambda t: t.pop("policy_head.pos_embed"), {}, "pos_embed is missing"),
        (lambda t: t.pop("reasoning_film.scale_fc.bias"), {}, "1 missing"),
        (lambda t: t["lm_head.weight"].add_(1), {}, "output layer of their own"),
        (lambda t: None, {"rope_theta": 1e4}, "rope_theta is 10000"),
        (lambda t: None, {"using_film": False}, "without FiLM"),
        (lambda t: None, {"policy_head_config": {}}, "number of attention heads"),
        (lambda t: [t.pop(n) for n in list(t) if n.startswith("policy_head")], {}, "no action head"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(folder: Path, change: Callable, config: dict, sentence: str) -> None:
    rewrite(folder, change, **config)
    with pytest.raises(ValueError, match=sentence):
        read_published(folder)


@pytest.mark.parametrize("extra", ["", "model."])  # how deep what trained in full lies
def test_adapters_are_merged_as_peft_does(original: DexVLA, folder: Path, tmp_path: Path, extra: str) -> None:
    state = {name: tensor.clone() for name, tensor in NAMES.state(original).items()}
    targets = "backbone.(llm.layers|vision.blocks).*(q_proj|up_proj|qkv|fc2)"
    adapted = get_peft_model(original, LoraConfig(r=2, lora_alpha=8, target_modules=targets))  # type: ignore[arg-type]
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        original.head.film.scale_fc.bias.add_(1)
    lora = tmp_path / "lora"
    adapted.save_pretrained(str(lora))
    file, inside = lora / "adapter_model.safetensors", "base_model.model."
    tensors = {name.removeprefix(inside): tensor for name, tensor in load_file(file).items()}
    save_file({inside + NAMES.published(name): tensor for name, tensor in tensors.items()}, file)
    full = {n: t for n, t in state.items() if n.startswith(("policy_head.", "input_", "reasoning_"))}
    full |= {"reasoning_film.scale_fc.bias": original.head.film.scale_fc.bias.data, "x.lora_A": torch.ones(1)}
    torch.save({f"base_model.{extra}{name}": t for name, t in full.items()}, lora / "non_lora_trainables.bin")
    rewrite(folder, lambda t: [t.pop(n) for n in full if n in t])  # the base is a plain VLM
    (lora / "config.json").write_text((folder / "config.json").read_text())
    found = read_published(lora, base=str(folder))
    assert found.adapters == 2 * 2 + 2 * 2
    torch.testing.assert_close(chunk(found.model), chunk(original), atol=1e-5, rtol=1e-4)
    rewrite_json(lora / "adapter_config.json", use_dora=True)
    with pytest.raises(ValueError, match="use_dora"):
        read_published(lora, base=str(folder))


def rewrite_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def write_statistics(path: Path, action: np.ndarray, state: np.ndarray) -> None:
    """As the published training code computes them."""
    data = {
        "action_mean": action.mean(0), "action_std": action.std(0).clip(1e-2), "action_min": action.min(0) - 1e-4,
        "action_max": action.max(0) + 1e-4, "qpos_mean": state.mean(0), "qpos_std": state.std(0).clip(1e-2),
        "example_qpos": state[0],
    }  # fmt: skip
    path.write_text(json.dumps({name: values.tolist() for name, values in data.items()}))


def test_convert_makes_a_policy_with_the_published_numbers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, robot = FakeDataset(2), tmp_path / "embodiment.json"
    action, state = (data.columns[name].astype(np.float64) for name in ("action", "observation.state"))
    action[:, 1] = 0.5  # a dimension that never moves
    embodiment().save(robot)
    arguments = ["convert", str(folder), "--out", str(tmp_path / "ours"), "--robot", str(robot)]
    assert main(arguments) == 1
    assert "not read here" in capsys.readouterr().err
    write_statistics(folder.parent / "dataset_stats.json", action, state)
    assert main(arguments) == 0
    policy = load_policy(tmp_path / "ours")
    units, stats = policy.processor.units[0], json.loads((folder.parent / "dataset_stats.json").read_text())
    low, high = np.array(stats["action_min"]), np.array(stats["action_max"])
    np.testing.assert_allclose(units.action.apply(action), 2 * (action - low) / (high - low) - 1, atol=1e-5)
    np.testing.assert_allclose(units.state.apply(state), (state - state.mean(0)) / state.std(0).clip(1e-2), atol=1e-5)
    assert policy.processor.to_json()["normalization"][0]["action"]["gripper"] == "min_max"
    assert policy.think == ("subtask",)
    found = policy.infer([data.observation(3)], seeds=[0])[0]
    assert isinstance(found.text["subtask"], str)
    assert ((found.actions >= low - 1e-4) & (found.actions <= high + 1e-4)).all()


def test_statistics_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_stats.json").write_text("{}")
    with pytest.raises(ValueError, match="action_mean"):
        read_statistics(tmp_path)


def test_a_fresh_model_starts_from_public_weights(original: DexVLA, folder: Path) -> None:
    fresh = DexVLA(replace(original.config))
    head = {name: tensor.clone() for name, tensor in fresh.head.denoiser.state_dict().items()}
    report = fresh.load_backbones({"vlm": str(folder)})
    assert not report.missing
    assert any(name.startswith("policy_head.") for name in report.unexpected)
    assert torch.equal(fresh.backbone.vision.patch_embed.proj.weight, original.backbone.vision.patch_embed.proj.weight)
    assert torch.equal(fresh.backbone.llm.norm.weight, original.backbone.llm.norm.weight)
    assert all(torch.equal(head[name], tensor) for name, tensor in fresh.head.denoiser.state_dict().items())
    with pytest.raises(ValueError, match=r"llm\.layers is 2, the model's 3"):
        DexVLA(update(original.config, {"llm.layers": 3})).load_backbones({"vlm": str(folder)})
    with pytest.raises(ValueError, match="fill 'vlm'"):
        fresh.load_backbones({"llm": str(folder)})
    assert public_tokenizer(str(folder), dm0=False).vocab_size == original.config.vocab_size - 3

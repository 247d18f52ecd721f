"""Public weights: transformers' Qwen3 as oracle for the language model, our own tower under public names."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from visuomotor.models import make_config
from visuomotor.models import make_model as make_model_of
from visuomotor.models.dm0 import DM0
from visuomotor.models.dm0.names import NAMES
from visuomotor.nn.masks import causal_attention
from visuomotor.nn.vision import resize_positions

Make = Callable[..., DM0]
TOWER = "model.mm_vision_tower.vision_tower."
ROWS, USED = 36, 33  # the public table is padded; the model has 40 tokens


def make_llm(folder: Path, *, tied: bool = True, shard: str = "50GB", **changed: Any) -> Qwen3ForCausalLM:
    """A tiny public language model, with a tokenizer of `USED` tokens."""
    torch.manual_seed(1)
    fields = {
        "vocab_size": ROWS, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": tied, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "initializer_range": 0.3,
    }  # fmt: skip
    oracle = Qwen3ForCausalLM(Qwen3Config(**fields | changed)).eval()
    oracle.save_pretrained(folder, max_shard_size=shard)
    Tokenizer(models.WordLevel({str(i): i for i in range(USED)}, unk_token="0")).save(str(folder / "tokenizer.json"))
    return oracle


@pytest.fixture
def public(make_model: Make) -> Callable[..., DM0]:
    return lambda **options: make_model(**{"llm.convolution": 0}, **options)


@torch.no_grad()
def states(model: DM0, ids: Tensor) -> Tensor:
    valid = torch.ones_like(ids, dtype=torch.bool)
    return model.backbone.llm(model.backbone.llm.embed_tokens(ids), causal_attention(valid))[0]


@pytest.mark.parametrize("own_output", [False, True])
@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_language_model_equals_transformers(public: Make, tmp_path: Path, tied: bool, own_output: bool) -> None:
    oracle, model = make_llm(tmp_path, tied=tied, shard="20KB"), public(tie_embeddings=not own_output)
    assert (tmp_path / "model.safetensors.index.json").exists()
    if not tied and not own_output:
        with pytest.raises(ValueError, match="tie_embeddings=False"):
            model.load_backbones({"llm": str(tmp_path)})
        return
    report = model.load_backbones({"llm": str(tmp_path)})
    assert report.complete
    assert set(report.loaded) == {n for n in NAMES.state(model) if n.startswith(("model.llm.", "lm_head."))}
    ids = torch.randint(USED, (2, 7))
    expected = oracle.model(ids).last_hidden_state
    torch.testing.assert_close(states(model, ids), expected, atol=1e-5, rtol=1e-5)
    logits = model.backbone._logits(states(model, ids))
    assert logits.shape[-1] == 40
    torch.testing.assert_close(logits[..., :USED], oracle(ids).logits[..., :USED], atol=1e-5, rtol=1e-5)


def test_new_tokens_start_near_the_mean_of_the_used_ones(public: Make, tmp_path: Path) -> None:
    make_llm(tmp_path)
    model, again, other = public(), public(), public()
    model.load_backbones({"llm": str(tmp_path)})
    again.load_backbones({"llm": str(tmp_path)})
    other.load_backbones({"llm": str(tmp_path)}, generator=torch.Generator().manual_seed(5))
    table = model.backbone.llm.embed_tokens.weight.detach()
    used, new = table[:USED], table[USED:]
    assert torch.equal(again.backbone.llm.embed_tokens.weight, table)
    assert not torch.equal(other.backbone.llm.embed_tokens.weight[USED:], new)
    assert torch.pdist(new).min() > 0
    assert ((new - used.mean(0)) / used.std(0)).abs().max() < 0.5
    states_of_text = torch.randn(64, 32)  # none of the new tokens may outweigh those that are trained
    assert (states_of_text @ new.T).std() < 0.6 * (states_of_text @ used.T).std()


def test_a_language_model_of_another_size_is_refused(make_model: Make, public: Make, tmp_path: Path) -> None:
    make_llm(tmp_path, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    with pytest.raises(ValueError, match=r"rope_theta is 10000.0, the model's 1000000.0; rms_norm_eps is 1e-05"):
        public().load_backbones({"llm": str(tmp_path)})
    make_llm(tmp_path / "b")
    with pytest.raises(ValueError, match=r"raise llm\.vocab_size"):
        public(**{"llm.vocab_size": USED - 1}).load_backbones({"llm": str(tmp_path / "b")})
    with pytest.raises(ValueError, match=r"llm\.convolution is 4, but no public language model has one"):
        make_model(**{"llm.vocab_size": ROWS + 8}).load_backbones({"llm": str(tmp_path / "b")})


@pytest.mark.parametrize(("size", "width", "mlp_width"), [("small", 1024, 3072), ("base", 2048, 6144)])
def test_the_published_configurations_are_those_of_the_sizes(
    tmp_path: Path, size: str, width: int, mlp_width: int
) -> None:
    """As in config.json of Qwen3-0.6B and Qwen3-1.7B, where the rotary base has a place of its own."""
    (tmp_path / "config.json").write_text(json.dumps({
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": width, "intermediate_size": mlp_width, "model_type": "qwen3", "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000, "tie_word_embeddings": True, "vocab_size": 151936,
    }))  # fmt: skip
    with torch.device("meta"):
        model = make_model_of("dm0", make_config("dm0", size))
    with pytest.raises(FileNotFoundError, match=r"lacks \*\.safetensors"):  # all else was accepted
        model.load_backbones({"llm": str(tmp_path)})


def test_damaged_folders_are_named(public: Make, tmp_path: Path) -> None:
    make_llm(tmp_path, shard="20KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[0]
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"lacks {shard.name}"):
        public().load_backbones({"llm": str(tmp_path)})
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"missing \(model\.llm\."):
        public().load_backbones({"llm": str(tmp_path)})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        public().load_backbones({"llm": str(tmp_path)})
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        public().load_backbones({"llm": str(tmp_path)})
    with pytest.raises(ValueError, match="'llm' and 'vision'"):
        public().load_backbones({"lmm": str(tmp_path)})


def tower_of(model: DM0) -> dict[str, Tensor]:
    tensors = {n: t.detach().clone() for n, t in model.backbone.vision.tower.state_dict().items()}
    return {n: torch.randn_like(t) for n, t in tensors.items() if not n.startswith("vit_downsampler")}


@pytest.mark.parametrize("layout", ["bare", "visual", "module", "safetensors"])
@torch.no_grad()
def test_vision_tower_under_public_names(public: Make, tmp_path: Path, layout: str) -> None:
    model = public()
    tower = tower_of(model)
    file = tower | {
        "ln_post.weight": torch.ones(16),
        "attn_pool.probe": torch.ones(1, 1, 16),
        "proj": torch.ones(16, 8),
    }
    ignored = set(file) - set(tower)
    if layout == "visual":  # the text tower has names of the vision tower
        file = {f"visual.{n}": t for n, t in file.items()}
        text = {"transformer.resblocks.0.ln_1.bias": torch.ones(3), "positional_embedding": torch.ones(9, 3)}
        ignored = {f"visual.{n}" for n in ignored} | set(text)
        file |= text
    if layout == "module":
        file = {"state_dict": {f"module.{n}": t for n, t in file.items()}}  # type: ignore[dict-item]
    if layout == "safetensors":
        save_file(file, tmp_path / "tower.safetensors")
    else:
        torch.save(file, tmp_path / "tower.pt")
    report = model.load_backbones({"vision": str(tmp_path)})
    assert report.complete
    assert set(report.ignored) == ignored
    assert set(report.loaded) == {TOWER + name for name in tower}
    for name, tensor in tower.items():
        assert torch.equal(NAMES.state(model)[TOWER + name].detach(), tensor), name


@torch.no_grad()
def test_another_grid_and_no_layer_scale(public: Make, tmp_path: Path) -> None:
    wide, model = (public(**{"vision.image_size": size}) for size in (48, 32))
    file = {n: t for n, t in tower_of(wide).items() if "ls_" not in n}
    torch.save(file, tmp_path / "tower.pt")
    assert model.load_backbones({"vision": str(tmp_path)}).complete
    table = model.backbone.vision.tower.positional_embedding
    assert torch.equal(table, resize_positions(file["positional_embedding"], 4))
    assert all(bool((g == 1).all()) for n, g in model.backbone.vision.tower.named_parameters() if n.endswith("gamma"))
    # A tower of the file's own grid makes the same of a small image: it resizes its table in the same way.
    wide.load_backbones({"vision": str(tmp_path)})
    for name in ("vit_downsampler1", "vit_downsampler2"):
        getattr(wide.backbone.vision.tower, name).load_state_dict(
            getattr(model.backbone.vision.tower, name).state_dict()
        )
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.backbone.vision.tower(images), wide.backbone.vision.tower(images))


def test_a_tower_that_does_not_fit_is_refused(public: Make, tmp_path: Path) -> None:
    model = public()
    file = tower_of(model)
    table = file.pop("class_embedding")
    torch.save(file, tmp_path / "tower.pt")
    with pytest.raises(ValueError, match=r"1 missing \(.*class_embedding\)"):
        model.load_backbones({"vision": str(tmp_path)})
    torch.save(file | {"class_embedding": table[:3]}, tmp_path / "tower.pt")
    with pytest.raises(ValueError, match=r"class_embedding: \[3\] against \[16\]"):
        model.load_backbones({"vision": str(tmp_path)})
    torch.save(file | {"class_embedding": table, "extra": table}, tmp_path / "tower.pt")
    assert model.load_backbones({"vision": str(tmp_path)}).unexpected == (TOWER + "extra",)
    torch.save(file | {"positional_embedding": torch.zeros(12, 16)}, tmp_path / "tower.pt")
    with pytest.raises(ValueError, match="square grid"):
        model.load_backbones({"vision": str(tmp_path)})


class Trap:
    """What a pickle can do: run anything when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("sprung",))


def test_pickles_are_never_run(public: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"class_embedding": Trap()}, tmp_path / "tower.pt")
    with pytest.raises(ValueError, match="more than tensors"):
        public().load_backbones({"vision": str(tmp_path)})
    assert "sprung" not in capsys.readouterr().out
    torch.save(torch.ones(3), tmp_path / "tower.pt")
    with pytest.raises(ValueError, match="missing"):
        public().load_backbones({"vision": str(tmp_path)})


def test_offline_says_what_to_fetch(public: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    said = r"hf download some/model --local-dir FOLDER.*--llm FOLDER.*config\.json"
    with pytest.raises(FileNotFoundError, match=said):
        public().load_backbones({"llm": "some/model"})
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "typo"))):
        public().load_backbones({"llm": str(tmp_path / "typo")})


def test_only_what_is_needed_is_fetched(public: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, list[str]]] = []

    def fetched(name: str, allow_patterns: list[str]) -> str:
        asked.append((name, allow_patterns))
        return str(tmp_path)

    make_llm(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    assert public().load_backbones({"llm": "Qwen/Qwen3-0.6B"}).complete
    assert asked[0][0] == "Qwen/Qwen3-0.6B"
    assert "*.safetensors" in asked[0][1]
    assert not [pattern for pattern in asked[0][1] if pattern in ("*", "*.bin")]


def test_tied_files_with_a_copy_of_the_output_layer(public: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    make_llm(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, tmp_path / "model.safetensors"
    )
    assert public().load_backbones({"llm": str(tmp_path)}).ignored == ("lm_head.weight",)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from visuomotor.backbones.towers import PrismaticVision
from visuomotor.models import make_config
from visuomotor.models.cogact import NAMES, CogACT
from visuomotor.models.cogact.convert import SIGLIP

SIZES = {
    "dinov2.image_size": 28,
    "dinov2.patch_size": 7,
    "siglip.image_size": 28,
    "siglip.patch_size": 7,
    "dinov2.width": 16,
    "dinov2.layers": 3,
    "dinov2.mlp_width": 32,
    "siglip.width": 24,
    "siglip.layers": 3,
    "siglip.mlp_width": 40,
    "llm.vocab_size": 64,
    "llm.width": 32,
    "llm.mlp_width": 48,
    "llm.layers": 3,
    "llm.convolution": 0,
    "action_model.width": 16,
    "action_model.depth": 1,
    "llm.head_dim": 8,
    "action_model.heads": 2,
}


@pytest.fixture
def folders(world: Any, tmp_path: Path) -> dict[str, str]:
    """DINOv2 as transformers saves it, SigLIP with timm's names, LLaMA of 60 words with its output layer."""
    world.dino.save_pretrained(tmp_path / "dinov2")
    (tmp_path / "siglip").mkdir()
    bare = SIGLIP.removeprefix("vision_backbone.")
    timm = {n.removeprefix(bare): t for n, t in world.parts["vision_backbone"].items() if n.startswith(bare)}
    save_file(
        {name: tensor.contiguous() for name, tensor in timm.items()}, str(tmp_path / "siglip" / "model.safetensors")
    )
    whole = LlamaForCausalLM(LlamaConfig(**world.llama.config.to_diff_dict()))
    whole.model.load_state_dict(world.llama.state_dict())
    whole.save_pretrained(tmp_path / "llm")
    return {part: str(tmp_path / part) for part in ("dinov2", "siglip", "llm")}


def model(**changes: Any) -> CogACT:
    return CogACT(make_config("cogact", "nano", **{**SIZES, **changes}))


@torch.no_grad()
def test_public_weights_fill_all_but_projector_and_action_model(world: Any, folders: dict[str, str]) -> None:
    fresh = model()
    before = {NAMES.published(name): p.clone() for name, p in fresh.named_parameters()}
    report = fresh.load_backbones(folders)
    assert not report.unexpected
    changed = {name for name, p in NAMES.state(fresh).items() if not torch.equal(p, before[name])}
    assert changed <= set(report.loaded)
    assert set(report.loaded) == {n for n in before if n.startswith(("vlm.vision_backbone.", "vlm.llm_backbone."))}
    assert "lm_head.weight" in report.ignored
    pixels = torch.randn(2, 3, 28, 28)
    vision = fresh.backbone.vision
    assert isinstance(vision, PrismaticVision)
    seen = world.dino(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(torch.cat(vision.dinov2(pixels), dim=1), seen, atol=1e-4, rtol=1e-4)
    others = world.siglip(pixels, output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(vision.siglip(pixels)[1], others, atol=1e-4, rtol=1e-4)
    table, public = fresh.backbone.llm.embed_tokens.weight, world.llama.embed_tokens.weight
    torch.testing.assert_close(table[:60], public, atol=0, rtol=0)
    torch.testing.assert_close(table[60:], public.mean(0).expand(4, -1))


def test_positions_are_resized_to_the_model(folders: dict[str, str]) -> None:
    assert (
        model(**{"dinov2.image_size": 42, "siglip.image_size": 42})
        .load_backbones({"dinov2": folders["dinov2"], "siglip": folders["siglip"]})
        .loaded
    )


def test_other_weights_are_refused(folders: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="fill 'dinov2', 'siglip' and 'llm', not \\['vision'\\]"):
        model().load_backbones({"vision": "somewhere"})
    with pytest.raises(ValueError, match="convolution is 0, the model's 4"):
        model(**{"llm.convolution": 4}).load_backbones({"llm": folders["llm"]})
    with pytest.raises(ValueError, match=r"do not fit this model: .*mismatched"):
        model(**{"siglip.width": 16}).load_backbones({"siglip": folders["siglip"]})
    path = Path(folders["llm"]) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_attention_heads": 2, "model_type": "mistral"}))
    with pytest.raises(ValueError, match=r"model_type is mistral, the model's llama; num_attention_heads is 2"):
        model().load_backbones({"llm": folders["llm"]})

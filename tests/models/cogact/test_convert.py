from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.cogact.conftest import read
from visuomotor.models.cogact.config import LLAMA2_7B
from visuomotor.models.cogact.convert import read_published, vlm_from_published

HEADS: dict[str, Any] = {"vision_heads": 2, "llm_heads": 4}


@pytest.fixture
def file(world: Any, tmp_path: Path) -> Path:
    path = tmp_path / "step-000001.pt"
    torch.save({"model": {**world.parts, "ema_diffusion": {"net.x": torch.zeros(1)}}}, path)
    return path


@torch.no_grad()
def test_a_published_file_becomes_both_models(world: Any, file: Path) -> None:
    published = read_published(file, action_heads=2, **HEADS)
    assert published.report.complete
    assert published.report.ignored == (
        "vision_backbone.siglip_featurizer.attn_pool.latent", "llm_backbone.llm.lm_head.weight",
    )  # fmt: skip
    z, noise = torch.randn(2, 1, 32), torch.randn(2, 4, 7)
    assert published.action_model is not None
    torch.testing.assert_close(published.action_model.sample(z, noise), world.action.sample(z, noise))
    llm = published.backbone.llm.config
    assert (llm.heads, llm.head_dim, llm.qk_norm) == (4, 8, False)
    assert (llm.rope_theta, llm.norm_eps) == (LLAMA2_7B.rope_theta, LLAMA2_7B.norm_eps) == (1e4, 1e-5)
    pixels, ids = torch.randn(2, 1, 3, 28, 28), torch.tensor([[1, 5, 29, 2]])
    expected = read(vlm_from_published(world.parts, **HEADS)[0], *pixels, ids, ids > 0)
    found = read(published.backbone, *pixels, ids, ids > 0)
    torch.testing.assert_close(found.states[-1], expected.states[-1], atol=0, rtol=0)


def test_a_file_without_action_model_is_where_training_starts(world: Any, tmp_path: Path) -> None:
    path = tmp_path / "openvla.pt"
    torch.save({"model": {name: part for name, part in world.parts.items() if name != "action_model"}}, path)
    assert read_published(path, **HEADS).action_model is None


def test_heads_that_nobody_published_must_be_told(file: Path) -> None:
    with pytest.raises(ValueError, match="16 wide, so its heads must be told; pass action_heads"):
        read_published(file, **HEADS)


def test_what_does_not_fit_is_named(world: Any) -> None:
    parts = world.parts
    with pytest.raises(ValueError, match="lacks projector"):
        vlm_from_published({name: part for name, part in parts.items() if name != "projector"}, **HEADS)

    def refused(part: str, change: dict[str, Any], match: str) -> None:
        tensors = {name: t for name, t in {**parts[part], **change}.items() if t is not None}
        with pytest.raises(ValueError, match=match):
            vlm_from_published({**parts, part: tensors}, **HEADS)

    refused("projector", {"projector.2.bias": None}, r"1 missing \(projector.projector.2.bias\)")
    refused("llm_backbone", {"llm.model.layers.0.self_attn.q_norm.weight": torch.ones(8)}, "1 unexpected")
    refused("vision_backbone", {"dino_featurizer.reg_token": torch.ones(1, 4, 9)}, "1 mismatched")
    refused("vision_backbone", {"dino_featurizer.patch_embed.proj.weight": None}, "patch_embed.proj.weight is missing")


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is missing"):
        read_published(tmp_path / "absent.pt")
    (tmp_path / "damaged.pt").write_bytes(b"not a file of pytorch")
    with pytest.raises(ValueError, match="damaged"):
        read_published(tmp_path / "damaged.pt")
    torch.save({"model": Path}, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match="more than tensors"):
        read_published(tmp_path / "pickle.pt")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no 'model'"):
        read_published(tmp_path / "other.pt")

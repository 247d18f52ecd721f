import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.models.cogact.conftest import TINY
from visuomotor.models import find_spec, make_config, make_model, read_checkpoint
from visuomotor.models.cogact import ActionModel, ActionModelConfig, action_model_from_published

CONFIG = ActionModelConfig(width=16, depth=3, heads=4, token_size=12, horizon=5, action_dim=3)


@pytest.fixture
def model() -> ActionModel:
    torch.manual_seed(0)
    model = ActionModel(CONFIG)
    nn.init.normal_(model.final_layer.linear.weight)
    return model


@pytest.mark.parametrize("prefix", ["", "net."])
def test_the_shapes_describe_the_model(model: ActionModel, prefix: str) -> None:
    published = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    found = action_model_from_published(published, num_heads=4, repeated_diffusion_steps=4)
    assert found.config == ActionModelConfig(**{**vars(CONFIG), "repeated_diffusion_steps": 4})
    z, noise = torch.randn(2, 1, 12), torch.randn(2, 5, 3)
    torch.testing.assert_close(found.sample(z, noise), model.sample(z, noise), atol=0, rtol=0)
    assert all(parameter.requires_grad for parameter in found.parameters())
    other = action_model_from_published(published, 2)
    assert not torch.allclose(other.sample(z, noise), model.sample(z, noise))


def test_what_does_not_fit_is_named(model: ActionModel) -> None:
    def refused(change: dict[str, Tensor | None], match: str) -> None:
        tensors = {**model.state_dict(), **change}
        with pytest.raises(ValueError, match=match):
            action_model_from_published({n: t for n, t in tensors.items() if t is not None}, num_heads=4)

    refused({"blocks.1.mlp.fc1.bias": None}, r"1 missing \(blocks.1.mlp.fc1.bias\)")
    refused({"blocks.0.norm1.weight": torch.ones(16)}, r"1 unexpected \(blocks.0.norm1.weight\)")
    refused({"final_layer.linear.bias": torch.ones(4)}, r"1 mismatched \(final_layer.linear.bias: \[4\] against \[3\]")
    refused({"x_embedder.linear.weight": None}, "x_embedder.linear.weight is missing")
    refused({name: None for name in model.state_dict() if name.startswith("blocks.")}, "8 missing")


def test_an_unconditional_vector_of_the_wired_width_is_replaced_aloud(
    model: ActionModel, caplog: pytest.LogCaptureFixture
) -> None:
    published = {**model.state_dict(), "z_embedder.uncondition": torch.ones(1, 4096)}
    with caplog.at_level(logging.WARNING):
        found = action_model_from_published(published, num_heads=4)
    assert "never used in training" in caplog.text
    z, noise = torch.randn(2, 1, 12), torch.randn(2, 5, 3)
    torch.testing.assert_close(found.sample(z, noise, guidance=1), model.sample(z, noise, guidance=1), atol=0, rtol=0)
    with pytest.raises(ValueError, match=r"z_embedder\.uncondition"):
        action_model_from_published({**published, "z_embedder.uncondition": torch.ones(1, 7)}, num_heads=4)


@pytest.mark.parametrize("name", ["cogact", "damvla"])
def test_checkpoints_of_the_second_format_are_renamed(name: str, tmp_path: Path) -> None:
    """Their tensors had the names of published files behind the name of the part."""
    config = make_config(name, "nano", **TINY, text_output="own")
    model = make_model(name, config)
    names = find_spec(name).names
    assert names is not None
    old = {published: tensor.detach() for published, tensor in names.state(model).items()}
    stems = {published.split(".")[0] for published in old}
    assert stems == {"vlm", "action_model", *(("gripper_model", "router") if name == "damvla" else ())}
    assert {".".join(n.split(".")[1:3]) for n in old if n.startswith("vlm.")} == {
        "vision_backbone.dino_featurizer", "vision_backbone.siglip_featurizer", "projector.projector",
        "llm_backbone.llm",
    }  # fmt: skip
    save_file(old, tmp_path / "model.safetensors")
    for written in (1, 2):
        (tmp_path / "config.json").write_text(json.dumps({"format": written, "model": name}))
        found = read_checkpoint(tmp_path)
        assert found.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, found[n]) for n, tensor in model.state_dict().items())
    (tmp_path / "config.json").write_text(json.dumps({"format": 3, "model": name}))
    assert read_checkpoint(tmp_path).keys() == old.keys()

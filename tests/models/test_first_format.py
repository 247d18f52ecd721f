"""Checkpoints of the first format, whose configurations had one flat list of fields, and of formats yet to come."""

import json
from pathlib import Path
from typing import Any

import pytest

import visuomotor
from visuomotor.codec import update
from visuomotor.models import FORMAT, config_from_json, config_to_json, make_config
from visuomotor.models.dexvla import UNetConfig
from visuomotor.policy import load_policy

WRITTEN = json.loads((Path(__file__).parent / "first_format.json").read_text())
LLM = {"llm.vocab_size": 700, "llm.width": 64, "llm.mlp_width": 72, "llm.layers": 3, "llm.heads": 2, "llm.kv_heads": 1}
HEAD = {
    "head.action_dim": 7,
    "head.state_dim": 6,
    "head.horizon": 6,
    "head.width": 96,
    "head.depth": 2,
    "head.heads": 3,
    "head.combine_width": 100,
    "head.embodiments": ("arm", "hand"),
    "head.action_dims": (7, 3),
    "head.state_dims": (6, 0),
    "head.initialisation": "published",
    "head.denoise_steps": 5,
    "head.noise_draws": 3,
    "head.shared_time": True,
    "head.mean_over": "all",
    "head.time_table": "bfloat16",
}
MEANT: dict[str, dict[str, Any]] = {
    "dm0": {
        "vision.image_size": 48,
        "vision.patch_size": 8,
        "vision.width": 64,
        "vision.layers": 2,
        "vision.heads": 4,
        "vision.mlp_width": 96,
        "vision.layer_scale": 0.5,
        "vision.downsamples": 2,
        **LLM,
        "llm.head_dim": 16,
        "llm.convolution": 2,
        "expert.width": 48,
        "expert.mlp_width": 56,
        "horizon": 6,
        "prefix_delay": 2,
        "newline_id": 9,
        "decoupled_sources": (0, 2),
    },
    "cogact": {
        "dinov2.image_size": 48,
        "dinov2.patch_size": 8,
        "dinov2.width": 64,
        "dinov2.layers": 3,
        "dinov2.heads": 4,
        "dinov2.mlp_width": 96,
        "dinov2.layer_scale": None,
        "dinov2.registers": 2,
        "siglip.image_size": 48,
        "siglip.patch_size": 8,
        "siglip.width": 40,
        "siglip.layers": 2,
        "siglip.heads": 1,
        "siglip.mlp_width": 88,
        **LLM,
        "llm.head_dim": 16,
        "llm.convolution": 2,
        "action_model.width": 80,
        "action_model.depth": 2,
        "action_model.heads": 5,
        "action_model.token_size": 64,
        "action_model.action_dim": 7,
        "action_model.horizon": 6,
        "action_model.unconditional_dropout": 0.2,
        "action_model.diffusion_steps": 50,
        "action_model.repeated_diffusion_steps": 3,
        "num_views": 1,
        "guidance": 1.0,
        "denoise_steps": 5,
    },
    "damvla": {
        "dinov2.image_size": 48,
        "siglip.image_size": 48,
        "dinov2.registers": 2,
        "llm.layers": 3,
        "action_model.horizon": 6,
        "action_model.width": 80,
        "dl": False,
        "routing": "soft",
        "visual_gradient": False,
    },
    "dexvla": {
        "image_height": 48,
        "image_width": 64,
        "vision.patch_size": 8,
        "vision.merge": 4,
        "vision.width": 64,
        "vision.layers": 2,
        "vision.heads": 4,
        "vision.mlp_ratio": 3,
        **LLM,
        "llm.mrope_sections": (4, 6, 6),
        "head_per_embodiment": True,
        **HEAD,
        "head.cond_dim": 64,
        "text_weight": 0.1,
        "end_id": 7,
    },
    "dexvla-unet": {
        "head": UNetConfig(
            action_dim=8,
            state_dim=8,
            horizon=12,
            channels=(32, 64),
            step_width=32,
            noise_draws=3,
            shared_time=False,
        ),
    },
    "dexvla-expert": {
        "image_roles": ("scene",),
        "image_size": 48,
        "encoder_norm": "batch",
        "sentence_dim": 32,
        **HEAD,
        "head.cond_dim": 64,
    },
}


@pytest.mark.parametrize("case", MEANT)
def test_fields_are_renamed_when_they_are_read(case: str) -> None:
    written = WRITTEN[case]
    assert "format" not in written
    name, config = config_from_json(written)
    assert config == make_config(name, "nano", **MEANT[case])
    assert config_from_json(config_to_json(name, config)) == (name, config)


@pytest.mark.parametrize("case", MEANT)
def test_fields_that_were_not_written_yet_are_those_of_nano(case: str) -> None:
    written = WRITTEN[case]
    fields = {"noise_draws", "token_convolution", "initialisation"} & written["config"].keys()
    kept = {key: value for key, value in written["config"].items() if key not in fields}
    name, config = config_from_json({**written, "config": kept})
    plain = make_config(name, "nano-UNet" if case == "dexvla-unet" else "nano")
    places = {
        "noise_draws": "noise_draws" if case == "dm0" else "head.noise_draws",
        "token_convolution": "llm.convolution",
        "initialisation": "head.initialisation",
    }
    for key in fields - ({"initialisation"} if case == "dexvla-unet" else set()):
        found, expected = config, plain
        for part in places[key].split("."):
            found, expected = getattr(found, part), getattr(expected, part)
        assert found == expected


def test_unknown_fields_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no 'vision_wdith' here. Did you mean 'vision\.width'\?"):
        config_from_json({"model": "dm0", "config": {"vision_wdith": 3}})
    with pytest.raises(ValueError, match=r"VisionConfig has no field 'config\.vision\.wdith'. Did you mean 'width'\?"):
        config_from_json({"format": 2, "model": "dm0", "config": {"vision": {"wdith": 3}}})


def test_the_shipped_checkpoint_is_read_and_written_anew(tmp_path: Path) -> None:
    shipped = Path(visuomotor.__file__).parent / "checkpoints" / "tabletop-nano"
    assert "format" not in json.loads((shipped / "config.json").read_text())
    policy = load_policy(shipped)
    assert policy.model.config == update(
        make_config("dm0", "nano"),
        {"state_token": "expert", "noise_draws": 8, "newline_id": policy.processor.tokenizer.newline_id},
    )
    policy.save(tmp_path / "again")
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    assert (written["format"], written["config"]["llm"]["layers"]) == (FORMAT, 4)
    assert load_policy(tmp_path / "again").model.config == policy.model.config


def test_a_newer_format_names_the_version_that_reads_it() -> None:
    newer = {**config_to_json("dm0", make_config("dm0")), "format": FORMAT + 1, "visuomotor": "7.8.9", "model": "dm9"}
    with pytest.raises(ValueError, match=r"has format \d, but .* reads formats up to \d; visuomotor 7\.8\.9 or newer"):
        config_from_json(newer)
    for broken, sentence in (
        ({"format": "x"}, "format is 'x'"),
        ({"config": [1]}, r"config is \[1\]; expected an object"),
    ):
        with pytest.raises(ValueError, match=sentence):
            config_from_json({"model": "dm0", "config": {}, **broken})

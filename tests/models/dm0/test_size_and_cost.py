import json
from collections.abc import Callable

import pytest
import torch

from visuomotor.models import config_from_json, config_to_json, make_config, make_model
from visuomotor.models.dm0 import DM0
from visuomotor.models.dm0.names import NAMES


def test_published_parameter_counts_to_the_unit() -> None:
    with torch.device("meta"):
        model = make_model("dm0", make_config("dm0", "base"))
    counts = {name: sum(p.numel() for p in parameters) for name, parameters in model.parts().items()}
    assert counts == {
        "vision": 387_513_344,
        "projector": 8_388_608,
        "llm": 1_722_141_696 - 312_731_648,
        "embed": 312_731_648,
        "expert": 308_346_880,
        "action_io": 3_214_368,
    }
    assert sum(p.numel() for p in model.parameters()) == 2_429_604_896


def test_published_names_and_shapes() -> None:
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in NAMES.state(make_model("dm0", make_config("dm0", "base"))).items()}
    tower = "model.mm_vision_tower.vision_tower."
    expected = {
        "model.llm.embed_tokens.weight": (152701, 2048),
        "model.llm.layers.27.self_attn.q_proj.weight": (2048, 2048),
        "model.llm.layers.0.self_attn.k_norm.weight": (128,),
        "model.llm.norm.weight": (2048,),
        tower + "class_embedding": (1024,),
        tower + "positional_embedding": (2705, 1024),
        tower + "conv1.weight": (1024, 3, 14, 14),
        tower + "ln_pre.bias": (1024,),
        tower + "transformer.resblocks.22.attn.in_proj_weight": (3072, 1024),
        tower + "transformer.resblocks.0.attn.in_proj_bias": (3072,),
        tower + "transformer.resblocks.0.attn.out_proj.weight": (1024, 1024),
        tower + "transformer.resblocks.0.ls_2.gamma": (1024,),
        tower + "transformer.resblocks.0.mlp.c_fc.weight": (4096, 1024),
        tower + "vit_downsampler1.weight": (2048, 1024, 3, 3),
        tower + "vit_downsampler2.bias": (4096,),
        "model.mm_projector.weight": (2048, 4096),
        "model.action_expert.model.layers.27.self_attn.o_proj.weight": (1024, 2048),
        "model.action_expert.model.layers.0.mlp.gate_proj.weight": (1536, 1024),
        "model.action_expert.model.norm.weight": (1024,),
        "model.action_in_proj.weight": (1024, 32),
        "model.action_out_proj.weight": (32, 1024),
        "model.action_time_mlp_in.weight": (1024, 2048),
        "model.action_time_mlp_out.bias": (1024,),
    }
    assert {name: shapes.get(name) for name in expected} == expected
    layer = 11
    assert len(shapes) == 1 + 28 * layer + 1 + 28 * layer + 1 + 23 * 14 + 5 + 4 + 1 + 8


@pytest.mark.parametrize("state_token", ["none", "prefix", "expert"])
@pytest.mark.parametrize("tied", [True, False])
def test_parts_cover_every_parameter_once(make_model: Callable[..., DM0], state_token: str, tied: bool) -> None:
    model = make_model(state_token=state_token, tie_embeddings=tied)
    listed = [id(p) for parameters in model.parts().values() for p in parameters]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(p) for p in model.parameters()}
    assert ("lm_head" in model.parts()) is not tied


def test_nano_is_small() -> None:
    assert 1e6 < sum(p.numel() for p in make_model("dm0", make_config("dm0", "nano")).parameters()) < 3e6


def test_small_holds_the_public_backbones() -> None:
    config = make_config("dm0", "small")
    with torch.device("meta"):
        model = make_model("dm0", config)
    counts = {name: sum(p.numel() for p in parameters) for name, parameters in model.parts().items()}
    assert counts["llm"] == 596_049_920 - 151_936 * 1024  # Qwen3-0.6B as published, less its embedding
    assert counts["embed"] == 152_701 * 1024
    assert config.vision.tokens() == 36
    base = make_config("dm0", "base")
    assert config.expert.width / config.llm.width == base.expert.width / base.llm.width
    assert config.expert.mlp_width / config.llm.mlp_width == base.expert.mlp_width / base.llm.mlp_width


def test_configuration_round_trip() -> None:
    config = make_config("dm0", decoupled_sources=(0, 2), state_token="expert")
    name, again = config_from_json(json.loads(json.dumps(config_to_json("dm0", config))))
    assert (name, again) == ("dm0", config)
    with pytest.raises(ValueError, match="'model'"):
        config_from_json({"config": {}})


def test_unknown_names_answer_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="'dm0'"):
        make_config("dmo")
    with pytest.raises(ValueError, match="Did you mean 'nano'"):
        make_config("dm0", "nanno")
    with pytest.raises(ValueError, match="Did you mean 'horizon'"):
        make_config("dm0", horizonn=8)
    with pytest.raises(TypeError, match="DM0Config"):
        make_model("dm0", {"horizon": 8})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoupled_sources": (1,), "gradient_decoupling": False}, "gradient_decoupling is off"),
        ({"noise_draws": 0}, "noise_draws is 0"),
        ({"state_token": "prefix", "state_dim": 0}, "state_dim"),
        ({"expert.width": 33}, "even"),
    ],
)
def test_contradictions_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_config("dm0", "nano", **fields)

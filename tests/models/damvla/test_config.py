import itertools
import logging

import pytest
import torch

from tests.models.damvla.conftest import SMALL
from visuomotor.models import config_from_json, config_to_json, make_config, make_model
from visuomotor.models.cost import sample_cost
from visuomotor.models.damvla import COMBINATIONS, DAMVLA, switches
from visuomotor.models.damvla.config import SWITCHES

PUBLISHED = ["00000", "11000", "11100", "11110", "11111", "01111", "00011"]  # Table VI: VT ACW TW DAM DL


def test_the_seven_published_combinations_in_their_order() -> None:
    assert SWITCHES == ("vt", "acw", "tw", "dam", "dl")
    assert ["".join(str(int(on)) for on in switches(name).values()) for name in COMBINATIONS] == PUBLISHED
    with pytest.raises(ValueError, match="Did you mean 'no-vt'"):
        switches("no_vt")


@pytest.mark.parametrize("on", list(itertools.product((False, True), repeat=5)))
def test_all_32_build(on: tuple[bool, ...], caplog: pytest.LogCaptureFixture) -> None:
    fields = dict(zip(SWITCHES, on, strict=True))
    with torch.device("meta"), caplog.at_level(logging.WARNING):
        model = DAMVLA(make_config("damvla", "nano", **{**SMALL, **fields}))
    ids = [id(p) for part in model.parts().values() for p in part]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert (model.head.router is not None) == (model.head.gripper is not None) == fields["dam"]
    assert bool(caplog.records) == (fields["dl"] and not fields["dam"])
    assert config_from_json(config_to_json("damvla", model.config)) == ("damvla", model.config)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"reasoning_layer": 4}, "choose -4 to 3"),
        ({"dinov2.registers": 0}, "registers is 0"),
        ({"routing": "sofft"}, "Did you mean 'soft'"),
        ({"hysteresis": 0.5}, "hysteresis is 0.5"),
        ({"hysteresis": 0.1, "routing": "soft"}, "where one head is chosen"),
        ({"weight_floor": 2.0}, "weight_floor is 2"),
    ],
)
def test_contradictions_are_refused(fields: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_config("damvla", "nano", **{**SMALL, **fields})


def test_base_has_the_paper_s_parts() -> None:
    config = make_config("damvla", "base")
    with torch.device("meta"):
        model = make_model("damvla", config)
        plain = make_model("cogact", make_config("cogact", "base"))
    sizes = {name: sum(p.numel() for p in part) for name, part in model.parts().items()}
    for name, part in plain.parts().items():
        if name != "action_model":
            assert sizes[name] == sum(p.numel() for p in part)
    head, width, token = 88_986_887, 768, 1024

    def told(values: int) -> int:
        return head + 2 * values + values * width + width + values  # norm, linear, learned null

    assert sizes["action_model"] == told(token)
    assert sizes["gripper_model"] == told(4 * token)
    assert sizes["router"] == 2 * 4096 + 4096 + 1
    assert (config.move_weight, config.mani_weight, config.router_weight) == (1.0, 1.0, 1e-4)
    cost, bare = sample_cost(model, 1, 20, 10), sample_cost(plain, 1, 20, 10)
    assert cost["action_model"].flops == pytest.approx(bare["action_model"].flops, rel=0.01)
    assert "gripper_model" not in cost  # one head is run

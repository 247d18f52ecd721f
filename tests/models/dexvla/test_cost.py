"""The cost of a sample against counted operations."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests.models.dexvla.conftest import TINY_UNET_HEAD
from visuomotor.cli.main import main
from visuomotor.contract import Batch
from visuomotor.models.dexvla import DexVLA


@pytest.mark.parametrize("head", [{}, {"head": TINY_UNET_HEAD}], ids=["scaledp", "unet"])
def test_cost_equals_counted_operations(make_dexvla: Callable[..., DexVLA], batch: Batch, head: dict) -> None:
    model, batch = make_dexvla(**head), replace(batch, actions=None)
    # The counter does not know the fused CPU attention; as plain products it counts, causal halves included.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.sample(batch, noise=torch.zeros(3, 1, 4, 3), steps=3)
    cost = model.cost(batch_size=3, text_length=batch.text_ids.shape[1] - len(batch.images), steps=3)
    counted = counter.get_flop_counts()
    total = sum(part.flops for part in cost.values())
    assert total == pytest.approx(counter.get_total_flops(), rel=0.01)
    towers = {"head": "DexVLA.head.denoiser", "merger": "DexVLA.backbone.vision.merger", "film": "DexVLA.head.film"}
    for part, name in towers.items():
        if name in counted:  # a head is sampled outside of its forward
            assert cost[part].flops == pytest.approx(sum(counted[name].values()), rel=0.01)


def test_the_command_line_tells_size_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "dexvla", "--size", "base-L", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"]["head"] == 462_632_462
    assert facts["total_parameters"] == sum(facts["parameters"].values())
    assert {row["part"] for row in facts["sample"]} == facts["parameters"].keys() - {"embed"}
    assert main(["model", "dexvla", "--size", "nano"]) == 0
    assert "one training step" not in capsys.readouterr().out  # nobody has worked it out

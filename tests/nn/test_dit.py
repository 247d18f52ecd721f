import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.nn.time_tables import Rule, time_table
from visuomotor.nn.dit import Block, TimeEmbedding, modulate, sinusoids


def test_sinusoids_follow_the_formula() -> None:
    code = sinusoids(torch.tensor([0.0, 7.0]), 8)
    frequencies = [math.exp(-math.log(10_000) * k / 4) for k in range(4)]
    expected = [[1.0] * 4 + [0.0] * 4, [math.cos(7 * f) for f in frequencies] + [math.sin(7 * f) for f in frequencies]]
    torch.testing.assert_close(code, torch.tensor(expected))
    swapped = sinusoids(torch.tensor([7.0]), 8, sine_first=True)
    torch.testing.assert_close(swapped, code[1:].roll(4, dims=-1))


@pytest.mark.parametrize("size", [4, 8, 64, 256])
@pytest.mark.parametrize("rule", ["scaledp", "unet"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tables_are_those_of_the_definition(size: int, rule: Rule, dtype: torch.dtype) -> None:
    unet = {"sine_first": True, "reach_last": True, "round_all": True}
    table = sinusoids(torch.arange(100), size, dtype=dtype, **(unet if rule == "unet" else {}))
    expected = time_table(range(100), size, dtype, rule)
    assert table.dtype == dtype
    # In float32 the last bit of a frequency depends on the exponential's implementation, and times multiply it.
    tolerance = 99 * 2**-23 if dtype == torch.float32 else 0
    torch.testing.assert_close(table, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("rule", ["scaledp", "unet"])
def test_indices_beyond_the_integers_of_bfloat16_are_rounded(rule: Rule) -> None:
    unet = {"sine_first": True, "reach_last": True, "round_all": True}
    table = sinusoids(torch.tensor([1, 99]), 1024, dtype=torch.bfloat16, **(unet if rule == "unet" else {}))
    torch.testing.assert_close(table, time_table((1, 99), 1024, torch.bfloat16, rule), atol=0, rtol=0)


def test_tables_with_exact_exponents_are_others() -> None:
    """Nearly half of the entries differ, by up to a fifth of the range."""
    table = sinusoids(torch.arange(100), 256, dtype=torch.bfloat16)
    difference = (table - time_table(range(100), 256, torch.bfloat16, "former")).abs()
    assert difference.max() > 0.1
    assert (difference > 0).float().mean() > 0.3


def test_frequencies_may_end_at_the_last_one() -> None:
    angles = [7 * 10_000 ** -(k / 3) for k in range(4)]
    expected = [[math.cos(a) for a in angles] + [math.sin(a) for a in angles]]
    torch.testing.assert_close(sinusoids(torch.tensor([7.0]), 8, reach_last=True), torch.tensor(expected))


def test_a_block_is_pytorchs_encoder_layer_where_both_exist() -> None:
    torch.manual_seed(0)
    block = Block(16, 4, modulated=False)
    layer = nn.TransformerEncoderLayer(
        16, 4, 64, dropout=0.0, activation=lambda x: F.gelu(x, approximate="tanh"), batch_first=True, norm_first=True,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    names = {
        "self_attn.in_proj_weight": "attn.qkv.weight", "self_attn.in_proj_bias": "attn.qkv.bias",
        "self_attn.out_proj.weight": "attn.proj.weight", "self_attn.out_proj.bias": "attn.proj.bias",
        "linear1.weight": "mlp.fc1.weight", "linear1.bias": "mlp.fc1.bias", "linear2.weight": "mlp.fc2.weight",
        "linear2.bias": "mlp.fc2.bias",
    }  # fmt: skip
    own = block.state_dict()
    assert set(own) == set(names.values())
    layer.load_state_dict(
        {theirs: own[ours] for theirs, ours in names.items()}, strict=False
    )  # norms start at identity
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(block(x), layer.eval()(x), atol=1e-5, rtol=1e-5)


def test_modulation_shifts_scales_and_gates() -> None:
    torch.manual_seed(0)
    block, x = Block(8, 2, modulated=True), torch.randn(3, 4, 8)
    zero = torch.zeros(3, 48)
    torch.testing.assert_close(block(x, zero), x, atol=0, rtol=0)  # closed gates
    gates = zero.clone()
    gates[:, 16:24] = gates[:, 40:] = 1
    plain = Block(8, 2, modulated=False)
    plain.load_state_dict({k: v for k, v in block.state_dict().items() if "adaLN" not in k})
    torch.testing.assert_close(block(x, gates), plain(x))
    rows = block.modulation(torch.randn(3, 8))
    assert rows.shape == (3, 48)
    assert (block(x, rows) - block(x, gates)).abs().max() > 1e-3
    torch.testing.assert_close(
        modulate(x, rows[:, :8], rows[:, 8:16]), x * (1 + rows[:, None, 8:16]) + rows[:, None, :8]
    )


def test_time_embedding_has_the_published_names() -> None:
    names = set(TimeEmbedding(8).state_dict())
    assert names == {f"mlp.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")}
    assert TimeEmbedding(8)(torch.arange(3)).shape == (3, 8)


def test_widths_that_do_not_split_are_refused() -> None:
    with pytest.raises(ValueError, match="does not split into 3 heads"):
        Block(8, 3, modulated=False)

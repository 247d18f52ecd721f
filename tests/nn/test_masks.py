import pytest
import torch
from torch.nn import functional as F

from visuomotor.nn.masks import Layout, See, causal_attention, compile_attention, valid_first

LAYOUT = Layout(
    blocks=("prefix", "hidden", "chunk"),
    sees={
        ("prefix", "prefix"): See.EARLIER,
        ("chunk", "prefix"): See.ALL,
        ("chunk", "chunk"): See.ALL,
    },
)


def test_literal_mask_and_positions() -> None:
    labels = torch.tensor([[0, 0, 1, 0, 2, 2]])
    valid = torch.tensor([[True, True, True, False, True, True]])
    attention = compile_attention(LAYOUT, labels, valid)
    assert attention.mask is not None
    assert attention.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 1, 1],
        [1, 1, 0, 0, 1, 1],
    ]
    assert attention.positions.tolist() == [[0, 1, -1, 1, 2, 3]]


@pytest.mark.parametrize("blocks", [[0] * 8, [0, 0, 0, 0, 1, 2, 2, 2], [0, 0, 0, 0, 0, 2, 2, 2]])
def test_blocks_that_see_themselves_and_earlier_ones(blocks: list[int]) -> None:
    """Full attention, pi0 and pi0.5, against their rule: a cumulative sum of block starts, and counted positions."""
    names = ("prefix", "state", "actions")
    layout = Layout(blocks=names, sees={(q, k): See.ALL for i, q in enumerate(names) for k in names[: i + 1]})
    valid = torch.tensor([[True] * 8, [True, False, True, False, True, True, True, True]])
    attention = compile_attention(layout, torch.tensor([blocks] * 2), valid)
    starts = torch.tensor([int(a != b) for a, b in zip(blocks, [0, *blocks], strict=False)])
    number = starts.cumsum(0)
    for row in range(2):
        for query in range(8):
            for key in range(8):
                visible = bool(number[key] <= number[query]) and bool(valid[row, key])
                assert attention.mask is not None
                assert attention.mask[row, 0, query, key] == visible
    assert torch.equal(attention.positions, valid.cumsum(1) - 1)


def test_queries_can_start_late() -> None:
    labels = torch.tensor([[0, 0, 1, 0, 2, 2]])
    valid = torch.ones(1, 6, dtype=torch.bool)
    whole, tail = compile_attention(LAYOUT, labels, valid), compile_attention(LAYOUT, labels, valid, first_query=4)
    assert whole.mask is not None
    assert tail.mask is not None
    assert torch.equal(whole.mask[:, :, 4:], tail.mask)
    assert torch.equal(whole.positions[:, 4:], tail.positions)


def test_causal_blocks_with_padding_last_need_no_mask() -> None:
    valid = torch.tensor([[True, True, True, False], [True, True, False, False]])
    plain = causal_attention(valid)
    compiled = compile_attention(LAYOUT, torch.zeros(2, 4, dtype=torch.long), valid)
    assert plain.mask is None
    assert plain.causal
    assert torch.equal(plain.positions, compiled.positions)
    q = torch.randn(2, 1, 4, 8)
    a = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    b = F.scaled_dot_product_attention(q, q, q, attn_mask=compiled.mask)
    seen = valid[:, None, :, None].expand_as(a)
    torch.testing.assert_close(a[seen], b[seen])


def test_valid_first_keeps_order() -> None:
    order = valid_first(torch.tensor([[False, True, False, True, True]]))
    assert order.tolist() == [[1, 3, 4, 0, 2]]


def test_unknown_block_in_the_table_is_refused() -> None:
    with pytest.raises(ValueError, match="sufix"):
        Layout(blocks=("prefix",), sees={("sufix", "prefix"): See.ALL})


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="same shape"):
        compile_attention(LAYOUT, torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool))

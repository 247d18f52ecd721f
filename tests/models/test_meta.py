"""Programs on the meta device: what the host may read there, and which kernels they take."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visuomotor.models.meta import as_on_a_gpu


def test_the_host_reads_integers_and_masks() -> None:
    with as_on_a_gpu():
        ids = torch.tensor([[3, 0, 5], [1, 0, 0]]).to("meta")
        mask = ids > 0
        assert mask.is_meta
        assert bool((mask.sum(1) == torch.tensor([2, 1], device="meta")).all())
        assert [part.shape for part in mask.nonzero(as_tuple=True)] == [(3,), (3,)]
        assert ids.max().item() == 5
        assert ids[0].tolist() == [3, 0, 5]
        assert torch.repeat_interleave(torch.arange(2, device="meta"), ids[:, 0]).shape == (4,)


def test_what_is_written_into_views_is_known() -> None:
    with as_on_a_gpu():
        ids = torch.zeros(2, 3, dtype=torch.int64, device="meta")
        ids[:, 1:] = 7
        assert ids.sum().item() == 28
        ids[0].copy_(torch.zeros(3, device="meta").long())
        with pytest.raises(RuntimeError, match="meta"):
            ids.sum().item()


def test_masks_of_unknown_values_are_all_true() -> None:
    with as_on_a_gpu():
        mask = torch.zeros(4, device="meta") > 1
        assert bool(mask.any())
        assert len(mask.nonzero()) == 4


def test_no_random_number_is_drawn() -> None:
    state = torch.get_rng_state()
    with as_on_a_gpu():
        torch.randint(10, (3,), device="meta")
    assert torch.equal(state, torch.get_rng_state())


def test_products_take_half_precision_where_autocast_is_on() -> None:
    linear, x = nn.Linear(4, 4, device="meta"), torch.zeros(2, 4, device="meta")
    with as_on_a_gpu("house") as end_forward:
        assert linear(x).dtype == (x @ linear.weight).dtype == torch.bfloat16
        assert (x + 1).dtype == torch.float32
        with torch.autocast("cpu", enabled=False):
            assert linear(x).dtype == torch.float32
        copies = [F.linear(x, linear.weight).grad_fn for _ in range(2)]
        assert copies[0] is not copies[1]
        end_forward()
        assert linear(x).dtype == torch.bfloat16
    with as_on_a_gpu():
        assert linear(x).dtype == torch.float32
    assert linear(x).dtype == torch.float32


@pytest.mark.parametrize(("half", "fused"), [(True, True), (False, False)])
def test_grouped_attention_has_no_fused_kernel_in_float32(half: bool, fused: bool) -> None:
    query, key = torch.zeros(1, 4, 6, 8, device="meta", requires_grad=True), torch.zeros(1, 2, 6, 8, device="meta")
    with as_on_a_gpu("house" if half else "float32", materialise=True):
        mixed = F.scaled_dot_product_attention(query, key, key, enable_gqa=True)
        plain = F.scaled_dot_product_attention(query[:, :2], key, key, is_causal=True)
    assert ("FlashAttention" in type(mixed.grad_fn).__name__) is fused
    assert "FlashAttention" in type(plain.grad_fn).__name__
    assert mixed.shape == query.shape

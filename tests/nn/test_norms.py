import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm

from visuomotor.nn.norms import AdaptiveRMSNorm, RMSNorm


def test_rms_norm_keeps_statistics_in_float32() -> None:
    norm = RMSNorm(8, eps=1e-6).to(torch.bfloat16)
    x = torch.randn(4, 8).mul(100).to(torch.bfloat16)
    wide = x.float()
    expected = (wide / (wide.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()).to(torch.bfloat16)
    assert norm(x).dtype == torch.bfloat16
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("offset", [False, True])
def test_fused_rms_norm_has_the_gradients_of_the_plain_one(offset: bool) -> None:
    fused, plain = RMSNorm(6, eps=1e-6, offset=offset), RMSNorm(6, eps=1e-6, offset=offset).double()
    for norm in (fused, plain):
        norm.weight.data.copy_(torch.linspace(0.5, 2, 6))
    x, grad = torch.randn(2, 3, 6, requires_grad=True), torch.randn(2, 3, 6)
    wide = x.detach().double().requires_grad_()
    expected = wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (plain.weight + offset)
    found = fused(x)
    torch.testing.assert_close(found, expected.float())
    found.backward(grad)
    expected.backward(grad.double())
    for a, b in ((x.grad, wide.grad), (fused.weight.grad, plain.weight.grad)):
        assert a is not None
        assert b is not None
        torch.testing.assert_close(a, b.float(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_offset_norm_multiplies_before_casting_as_gemma_does(dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, oracle = RMSNorm(64, eps=1e-6, offset=True), GemmaRMSNorm(64, eps=1e-6)
    assert not norm.weight.any()
    oracle.weight.normal_()
    norm.load_state_dict(oracle.state_dict())
    x = 100 * torch.randn(4, 5, 64, dtype=dtype)
    found, expected = norm.to(weight_dtype)(x), oracle.to(weight_dtype)(x)
    assert found.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 0.0
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adaptive_norm_is_scaled_shifted_and_gated_by_its_condition(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm, condition = AdaptiveRMSNorm(6, eps=1e-6), torch.randn(2, 6)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 3, 6).to(dtype)
    rows = condition @ norm.dense.weight.T + norm.dense.bias
    wide = x.float()
    expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    expected = (expected * (1 + rows[:, None, :6]) + rows[:, None, 6:12]).to(dtype)
    found, gate = norm(x, condition)
    assert found.dtype == gate.dtype == dtype
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gate, rows[:, None, 12:].to(dtype))
    for token in range(3):  # a condition for each token: each is modulated by its own
        conditions = torch.randn(2, 3, 6)
        each, gates = norm(x, conditions)
        alone, gate = norm(x[:, [token]], conditions[:, token])
        torch.testing.assert_close(each[:, [token]], alone)
        torch.testing.assert_close(gates[:, [token]], gate)


def test_a_fresh_adaptive_norm_normalises_alone_and_closes_its_branch() -> None:
    x = torch.randn(2, 3, 6)
    found, gate = AdaptiveRMSNorm(6, eps=1e-6)(x, torch.randn(2, 6))
    torch.testing.assert_close(found, RMSNorm(6, eps=1e-6)(x))
    assert not gate.any()

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaModel, Qwen3Config, Qwen3Model

from tests.nn.closeness import additive, require_close
from visuomotor.nn.cache import KVCache
from visuomotor.nn.decoder import Decoder
from visuomotor.nn.decoder_config import DecoderConfig
from visuomotor.nn.masks import Layout, See, causal_attention, compile_attention

CONFIG = DecoderConfig(width=32, mlp_width=48, layers=3, heads=4, kv_heads=2, head_dim=16, vocab_size=50)
LAYOUT = Layout(blocks=("text",), sees={("text", "text"): See.EARLIER})


@pytest.fixture(scope="module")
def pair() -> tuple[Decoder, Qwen3Model]:
    torch.manual_seed(0)
    oracle = Qwen3Model(
        Qwen3Config(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            rms_norm_eps=1e-6,
            attn_implementation="eager",
        )
    ).eval()
    for parameter in oracle.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = Decoder(CONFIG)
    ours.load_state_dict(oracle.state_dict())  # strict: the names are identical
    return ours, oracle


@torch.no_grad()
@pytest.mark.parametrize("padding", ["none", "right", "left"])
def test_equals_qwen3(pair: tuple[Decoder, Qwen3Model], padding: str) -> None:
    ours, oracle = pair
    ids = torch.randint(50, (2, 9))
    valid = torch.ones(2, 9, dtype=torch.bool)
    if padding == "right":
        valid[1, 6:] = False
    elif padding == "left":
        valid[1, :3] = False
    attention = compile_attention(LAYOUT, torch.zeros(2, 9, dtype=torch.long), valid)
    found, _ = ours(ours.embed_tokens(ids), attention)
    positions = (valid.long().cumsum(1) - 1).clamp_min(0)
    expected = oracle(input_ids=ids, attention_mask=valid.long(), position_ids=positions).last_hidden_state
    torch.testing.assert_close(found[valid], expected[valid], atol=2e-5, rtol=1e-5)
    if padding != "left":
        plain, _ = ours(ours.embed_tokens(ids), causal_attention(valid))
        torch.testing.assert_close(plain[valid], expected[valid], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_cache_continues_like_qwen3(pair: tuple[Decoder, Qwen3Model]) -> None:
    ours, oracle = pair
    ids = torch.randint(50, (2, 8))
    expected = oracle(input_ids=ids).last_hidden_state
    cache = KVCache(CONFIG, batch=2, capacity=5, like=expected)
    found, _ = ours(ours.embed_tokens(ids[:, :5]), causal_attention(torch.ones(2, 5, dtype=torch.bool)), cache=cache)
    cache.length = 5
    torch.testing.assert_close(found, expected[:, :5], atol=2e-5, rtol=1e-5)
    for slot in range(5, 8):
        cache.reserve(1)
        filled = torch.ones(2, slot + 1, dtype=torch.bool)
        attention = compile_attention(LAYOUT, torch.zeros(2, slot + 1, dtype=torch.long), filled, first_query=slot)
        state, _ = ours(ours.embed_tokens(ids[:, slot : slot + 1]), attention, cache=cache)
        cache.length += 1
        torch.testing.assert_close(state[:, 0], expected[:, slot], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_past_equals_cache_and_cache_writes_in_place(pair: tuple[Decoder, Qwen3Model]) -> None:
    ours, _ = pair
    x = torch.randn(1, 7, 32)
    whole = causal_attention(torch.ones(1, 7, dtype=torch.bool))
    full, _ = ours(x, whole)
    cache = KVCache(CONFIG, batch=1, capacity=7, like=x)
    _, lent = ours(x[:, :4], causal_attention(torch.ones(1, 4, dtype=torch.bool)), cache=cache, keys_only=True)
    cache.length = 4
    where = cache.buffer.data_ptr()
    labels, valid = torch.zeros(1, 7, dtype=torch.long), torch.ones(1, 7, dtype=torch.bool)
    rest = compile_attention(LAYOUT, labels, valid, first_query=4)
    for found, _ in (ours(x[:, 4:], rest, past=lent), ours(x[:, 4:], rest, cache=cache)):
        torch.testing.assert_close(found, full[:, 4:], atol=2e-5, rtol=1e-5)
    assert cache.buffer.data_ptr() == where
    assert cache.length == 4


@torch.no_grad()
def test_a_tower_with_convolution_goes_on_behind_each_rows_last_valid_token() -> None:
    torch.manual_seed(0)
    config = replace(CONFIG, convolution=4)
    decoder, x = Decoder(config), torch.randn(2, 8, 32)
    full, _ = decoder(x, causal_attention(torch.ones(2, 8, dtype=torch.bool)))
    begun = torch.tensor([5, 2])  # row 1 is shorter, and padded behind
    valid = torch.arange(5) < begun[:, None]
    cache = KVCache(config, batch=2, capacity=9, like=x)
    decoder(x[:, :5].where(valid[..., None], torch.full_like(x[:, :5], 7.0)), causal_attention(valid), cache=cache)
    cache.length = 5
    for step in range(3):
        valid = torch.cat([valid, torch.ones(2, 1, dtype=torch.bool)], dim=1)
        attention = compile_attention(LAYOUT, torch.zeros_like(valid, dtype=torch.long), valid, first_query=5 + step)
        state, _ = decoder(x[[0, 1], begun + step][:, None], attention, cache=cache)
        cache.length += 1
        torch.testing.assert_close(state[:, 0], full[[0, 1], begun + step], atol=2e-5, rtol=1e-5)
    _, lent = decoder(x[:, :5], causal_attention(torch.ones(2, 5, dtype=torch.bool)))
    with pytest.raises(ValueError, match="pass `cache`"):
        decoder(x[:, 5:], attention, past=lent)


@pytest.mark.parametrize("convolution", [0, 3])
def test_one_state_a_row_costs_the_last_layer_no_others(convolution: int) -> None:
    torch.manual_seed(0)
    tower = Decoder(replace(CONFIG, convolution=convolution, qk_norm=False))
    valid = torch.tensor([[True] * 9, [True] * 6 + [False] * 3])
    slot, attention = torch.tensor([8, 5]), causal_attention(valid)
    embedded = torch.randn(2, 9, 32)
    whole, one = (embedded.clone().requires_grad_() for _ in range(2))
    expected = tower(whole, attention)[0][[0, 1], slot]
    rows = []
    tower.layers[-1].mlp.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[1]))  # type: ignore[union-attr]
    x, own = tower(one, attention, keys_only=True)
    found = tower.last_state(x, attention, own[-1], slot)
    assert rows == [1]
    torch.testing.assert_close(found[:, 0], expected, atol=1e-5, rtol=1e-5)
    expected.square().sum().backward()
    found.square().sum().backward()
    assert whole.grad is not None
    assert one.grad is not None
    torch.testing.assert_close(one.grad, whole.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "evenly"),
        ({"head_dim": 3}, "even"),
        ({"convolution": 1}, "at least 2 tokens"),
        ({"norm": "layer"}, "Known: gain, offset, adaptive"),
        ({"activation": "relu"}, "Known: silu, gelu"),
        ({"norm": "adaptive"}, "qk_norm=False"),
    ],
)
def test_configurations_without_meaning_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **changes)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("eps", [1e-5, 1e-2])
def test_without_norms_of_queries_and_keys_it_is_llama_in_every_layer(kv_heads: int, eps: float) -> None:
    torch.manual_seed(0)
    oracle = LlamaModel(
        LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=kv_heads, rms_norm_eps=eps, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    for parameter in oracle.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = Decoder(replace(CONFIG, kv_heads=kv_heads, head_dim=8, rope_theta=1e4, norm_eps=eps, qk_norm=False))
    ours.load_state_dict(oracle.state_dict())  # strict: the names are identical
    ids, valid = torch.randint(50, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    valid[1, 6:] = False
    expected = oracle(input_ids=ids, attention_mask=valid.long(), output_hidden_states=True).hidden_states
    hidden: list[torch.Tensor] = []
    last, _ = ours(ours.embed_tokens(ids), causal_attention(valid), hidden=hidden)
    assert len(expected) == 4
    for found, wanted in zip([*hidden, last], expected, strict=True):
        torch.testing.assert_close(found[valid], wanted[valid], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_llama_with_full_attention() -> None:
    """OpenVLA-OFT: every valid token sees every valid token, positions count them."""
    torch.manual_seed(0)
    oracle = LlamaModel(
        LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=4, rms_norm_eps=1e-5, attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    for parameter in oracle.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = Decoder(replace(CONFIG, kv_heads=4, head_dim=8, rope_theta=1e4, norm_eps=1e-5, qk_norm=False))
    ours.load_state_dict(oracle.state_dict())
    ids, valid = torch.randint(50, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    valid[1, 6:] = False
    visible = valid[:, None, :].expand(-1, 9, -1)
    expected = oracle(
        input_ids=ids, attention_mask=additive(visible), position_ids=valid.cumsum(1) - 1
    ).last_hidden_state
    full = Layout(blocks=("text",), sees={("text", "text"): See.ALL})
    found, _ = ours(ours.embed_tokens(ids), compile_attention(full, torch.zeros(2, 9, dtype=torch.long), valid))
    require_close(found[valid], expected[valid])

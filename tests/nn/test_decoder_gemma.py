"""Gemma's choices against transformers' GemmaModel, and pi0.5's adaptive norms against Gemma's."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import GemmaConfig, GemmaModel

from tests.nn.closeness import additive, require_close
from visuomotor.nn.cache import KVCache
from visuomotor.nn.decoder import Decoder, DecoderLayer
from visuomotor.nn.decoder_config import DecoderConfig
from visuomotor.nn.masks import Layout, See, causal_attention, compile_attention

GEMMA = DecoderConfig(
    width=32, mlp_width=48, layers=3, heads=4, kv_heads=1, head_dim=16, vocab_size=50, rope_theta=1e4, qk_norm=False,
    norm="offset", activation="gelu", scale_embeddings=True,
)  # fmt: skip


def gemma_oracle() -> GemmaModel:
    torch.manual_seed(0)
    oracle = GemmaModel(
        GemmaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=1, head_dim=16, hidden_activation="gelu_pytorch_tanh", attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    for parameter in oracle.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return oracle


@torch.no_grad()
def test_gemma_with_the_blocks_of_pi0_in_every_layer() -> None:
    """Images and text see each other, the state sees them, the actions see all: pi0's rule, for one tower."""
    oracle, ours = gemma_oracle(), Decoder(GEMMA)
    ours.load_state_dict(oracle.state_dict())  # strict: the names are identical
    blocks = ("prefix", "state", "actions")
    sees = {(q, k): See.ALL for i, q in enumerate(blocks) for k in blocks[: i + 1]}
    labels = torch.tensor([0] * 6 + [1] + [2] * 3).expand(2, -1)
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[1, 1:3] = False  # a masked view in the middle
    valid[1, 5] = False  # padding of the text
    ids = torch.randint(50, (2, 10))
    visible = (labels[:, None, :] <= labels[:, :, None]) & valid[:, None, :] & valid[:, :, None]
    expected = oracle(
        input_ids=ids,
        attention_mask=additive(visible),
        position_ids=valid.cumsum(1) - 1,
        output_hidden_states=True,
    ).hidden_states
    attention = compile_attention(Layout(blocks=blocks, sees=sees), labels, valid)
    hidden: list[Tensor] = []
    last, _ = ours(ours.embed_tokens(ids), attention, hidden=hidden)
    assert len(expected) == 4
    for found, wanted in zip([*hidden, last], expected, strict=True):
        require_close(found[valid], wanted[valid])
    # The prefix is blind to the suffix, so that its keys and values, made alone, serve every denoising step.
    cache = KVCache(GEMMA, batch=2, capacity=10, like=last)
    layout = Layout(blocks=blocks, sees=sees)
    ours(hidden[0][:, :6], compile_attention(layout, labels[:, :6], valid[:, :6]), cache=cache, keys_only=True)
    cache.length = 6
    rest = compile_attention(layout, labels, valid, first_query=6)
    for _ in range(2):
        require_close(ours(hidden[0][:, 6:], rest, cache=cache)[0], expected[-1][:, 6:])


@torch.no_grad()
def test_gemmas_other_activation_and_norm_are_other_functions() -> None:
    oracle = gemma_oracle()
    ids = torch.randint(50, (2, 9))
    expected = oracle(input_ids=ids).last_hidden_state
    attention = causal_attention(torch.ones(2, 9, dtype=torch.bool))
    for changes in ({}, {"activation": "silu"}, {"norm": "gain"}, {"scale_embeddings": False}):
        ours = Decoder(replace(GEMMA, **changes))
        ours.load_state_dict(oracle.state_dict())
        found, _ = ours(ours.embed_tokens(ids), attention)
        if changes:
            assert (found - expected).abs().max() > 1e-3 * expected.abs().max()
        else:
            require_close(found, expected)


def test_published_widths_have_the_stated_numbers_of_parameters() -> None:
    """PaliGemma's language model and the experts of pi0 and pi0.5."""
    language = replace(
        GEMMA, width=2048, mlp_width=16384, layers=18, heads=8, kv_heads=1, head_dim=256, vocab_size=257152
    )
    expert = replace(language, width=1024, mlp_width=4096, vocab_size=None, scale_embeddings=False)
    with torch.device("meta"):
        towers = [Decoder(language), Decoder(expert), Decoder(replace(expert, norm="adaptive"))]
    counts = [sum(parameter.numel() for parameter in tower.parameters()) for tower in towers]
    assert counts == [1_981_884_416 + 526_647_296, 311_464_960, 427_932_672]


@torch.no_grad()
def test_adaptive_norms_without_modulation_are_gemmas() -> None:
    """scale = weight, shift = 0, gate = 1, whatever the condition."""
    oracle = gemma_oracle()
    ours = Decoder(replace(GEMMA, norm="adaptive"))
    tensors = dict(oracle.state_dict())
    for name in [name for name in tensors if name.endswith("norm.weight")]:
        weight = tensors.pop(name)
        stem = name.removesuffix("weight")
        tensors[stem + "dense.weight"] = torch.zeros(96, 32)
        tensors[stem + "dense.bias"] = torch.cat([weight, torch.zeros(32), torch.ones(32)])
    ours.load_state_dict(tensors)
    ids = torch.randint(50, (2, 9))
    attention = causal_attention(torch.ones(2, 9, dtype=torch.bool))
    for condition in (torch.randn(2, 32), torch.randn(2, 9, 32)):
        found, _ = ours(ours.embed_tokens(ids), attention, condition=condition)
        require_close(found, oracle(input_ids=ids).last_hidden_state)


@torch.no_grad()
def test_adaptive_layers_gate_both_branches() -> None:
    """One layer and the final norm, written out: x + gate * branch(rms(x) * (1 + scale) + shift)."""
    torch.manual_seed(0)
    config = replace(GEMMA, norm="adaptive", layers=1)
    tower, x, condition = Decoder(config), torch.randn(2, 5, 32), torch.randn(2, 32)
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    layer = tower.layers[0]
    assert isinstance(layer, DecoderLayer)

    def modulated(h: Tensor, dense: nn.Linear) -> tuple[Tensor, Tensor]:
        scale, shift, gate = (condition @ dense.weight.T + dense.bias)[:, None].chunk(3, -1)
        return h / (h.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + scale) + shift, gate

    attention = causal_attention(torch.ones(2, 5, dtype=torch.bool))
    normed, gate = modulated(x, layer.input_layernorm.dense)
    attended, _ = layer.self_attn(normed, attention, tower.rotation(attention))
    h = x + gate * attended
    normed, gate = modulated(h, layer.post_attention_layernorm.dense)
    h = h + gate * layer.mlp(normed)
    expected, _ = modulated(h, tower.norm.dense)
    require_close(tower(x, attention, condition=condition)[0], expected)


def test_a_condition_is_given_exactly_where_norms_are_adaptive() -> None:
    attention, x = causal_attention(torch.ones(2, 5, dtype=torch.bool)), torch.randn(2, 5, 32)
    with pytest.raises(ValueError, match="'adaptive': give a condition"):
        Decoder(replace(GEMMA, norm="adaptive"))(x, attention)
    with pytest.raises(ValueError, match="'offset': give a condition"):
        Decoder(GEMMA)(x, attention, condition=torch.randn(2, 32))

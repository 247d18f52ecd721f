"""Layers behind hooks, compilers and shards: every path through a decoder calls them as modules."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from visuomotor.nn.attention import SelfAttention
from visuomotor.nn.cache import KVCache
from visuomotor.nn.decoder import Decoder, DecoderLayer
from visuomotor.nn.decoder_config import DecoderConfig
from visuomotor.nn.masks import causal_attention

CONFIG = DecoderConfig(width=32, mlp_width=48, layers=3, heads=4, kv_heads=2, head_dim=16)
PATHS = ("training", "recomputed", "keys_only", "last_state", "cached")


def run_path(tower: Decoder, path: str, x: Tensor) -> Tensor:
    attention = causal_attention(torch.ones(2, 9, dtype=torch.bool))
    tower.checkpoint = path == "recomputed"
    if path == "cached":
        cache = KVCache(tower.config, batch=2, capacity=9, like=x)
        with torch.no_grad():
            return tower(x, attention, cache=cache)[0]
    states, pairs = tower(x, attention, keys_only=path in ("keys_only", "last_state"))
    if path == "keys_only":
        return pairs[-1][1]
    return tower.last_state(states, attention, pairs[-1], torch.tensor([8, 5])) if path == "last_state" else states


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("convolution", [0, 3])
def test_layers_and_their_attention_are_called_as_modules(path: str, convolution: int) -> None:
    torch.manual_seed(0)
    tower = Decoder(replace(CONFIG, convolution=convolution))
    calls: list[str] = []
    for name, module in tower.named_modules():
        if isinstance(module, DecoderLayer | SelfAttention):
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    run_path(tower, path, torch.randn(2, 9, 32))
    last = ["layers.2.self_attn", "layers.2"] if path == "last_state" else []
    assert calls == [f"layers.{i}{part}" for i in range(3) for part in (".self_attn", "")] + last


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("convolution", [0, 3])
def test_compiled_layers_give_the_same(path: str, convolution: int) -> None:
    torch.manual_seed(0)
    tower, x = Decoder(replace(CONFIG, convolution=convolution)), torch.randn(2, 9, 32)
    expected = run_path(tower, path, x)
    for index, layer in enumerate(tower.layers):
        tower.layers[index] = torch.compile(layer, backend="eager")  # type: ignore[assignment]
    torch.testing.assert_close(run_path(tower, path, x), expected)


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")  # keys and values are views, which nobody writes into
@pytest.mark.usefixtures("one_process")
def test_sharded_layers_give_the_same_values_and_gradients() -> None:
    torch.manual_seed(0)
    tower = Decoder(replace(CONFIG, convolution=3))
    sharded = deepcopy(tower)
    for layer in sharded.layers:
        fully_shard(layer)
    for path in PATHS:
        results = []
        for decoder in (tower, sharded):
            decoder.zero_grad()
            x = torch.linspace(-1, 1, 2 * 9 * 32).view(2, 9, 32).requires_grad_()
            out = run_path(decoder, path, x)
            if path != "cached":
                out.square().sum().backward()
                assert x.grad is not None
                gradient = decoder.layers[0].self_attn.q_proj.weight.grad
                whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
                out = torch.cat([out.flatten(), x.grad.flatten(), whole.flatten()])
            results.append(out.detach())
        torch.testing.assert_close(results[1], results[0])

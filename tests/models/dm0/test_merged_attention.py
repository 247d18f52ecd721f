"""Our split computation against the joint one: both towers layer by layer under one attention (section 1.6)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from visuomotor.contract import Batch, TextKind
from visuomotor.models.dm0 import DM0
from visuomotor.nn.decoder import Decoder, DecoderLayer


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * weight


def rope(x: Tensor, positions: Tensor) -> Tensor:
    """x [S, D]."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * 1e6 ** -(torch.arange(half) / half)
    cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def joint(model: DM0, prefix: Tensor, suffix: Tensor, visible: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Both towers on one row: prefix [P, W], suffix [S, We], visible bool[P + S, P + S], positions [P + S]."""
    config = model.config
    towers: list[Decoder] = [model.backbone.llm, model.head.expert]
    sides, cut = [prefix, suffix], prefix.shape[0]
    for index in range(config.llm.layers):
        layers = [tower.layers[index] for tower in towers]
        q, k, v = [], [], []
        for layer, h in zip(layers, sides, strict=True):
            assert isinstance(layer, DecoderLayer)
            a, n = layer.self_attn, rms(h, layer.input_layernorm.weight)
            q.append(rms((n @ a.q_proj.weight.T).unflatten(-1, (config.llm.heads, -1)), a.q_norm.weight))
            k.append(rms((n @ a.k_proj.weight.T).unflatten(-1, (config.llm.kv_heads, -1)), a.k_norm.weight))
            v.append((n @ a.v_proj.weight.T).unflatten(-1, (config.llm.kv_heads, -1)))
        queries, keys, values = torch.cat(q), torch.cat(k), torch.cat(v)
        heads = []
        for head in range(config.llm.heads):
            shared = head // (config.llm.heads // config.llm.kv_heads)
            scores = rope(queries[:, head], positions) @ rope(keys[:, shared], positions).T
            scores = scores / math.sqrt(config.llm.head_dim)
            heads.append(scores.masked_fill(~visible, -2.3819763e38).softmax(-1) @ values[:, shared])
        attended = torch.cat(heads, -1)
        for side, part in enumerate((attended[:cut], attended[cut:])):
            layer = layers[side]
            assert isinstance(layer, DecoderLayer)
            r = sides[side] + part @ layer.self_attn.o_proj.weight.T
            n, m = rms(r, layer.post_attention_layernorm.weight), layer.mlp
            gate = n @ m.gate_proj.weight.T
            sides[side] = r + (gate * gate.sigmoid() * (n @ m.up_proj.weight.T)) @ m.down_proj.weight.T
    return rms(sides[0], towers[0].norm.weight), rms(sides[1], towers[1].norm.weight)


def rules(valid: list[bool], hidden: list[bool], chunk: int) -> tuple[Tensor, Tensor]:
    """Visibility and positions slot by slot: causal prefix, bidirectional chunk that skips the hidden tokens."""
    size = len(valid)
    visible = torch.zeros(size + chunk, size + chunk, dtype=torch.bool)
    positions, count = [], -1
    for i in range(size):
        count += valid[i]
        positions.append(count)
        visible[i, : i + 1] = torch.tensor(valid[: i + 1])
    seen = torch.tensor([v and not h for v, h in zip(valid, hidden, strict=True)])
    visible[size:, :size], visible[size:, size:] = seen, True
    positions += [int(seen.sum()) + i for i in range(chunk)]
    return visible, torch.tensor(positions)


@torch.no_grad()
def test_split_passes_equal_the_joint_pass(make_model: Callable[..., DM0], make_batch: Callable[..., Batch]) -> None:
    model, batch = make_model(**{"llm.convolution": 0}), make_batch()
    x, t = torch.randn(3, 1, 4, 3), torch.tensor([[0.3], [0.9], [0.5]])
    velocity = model.denoise(model.encode(batch), x, t)
    images = [image.permute(0, 3, 1, 2) / 127.5 - 1 for image in batch.images.values()]
    vision, words = model.backbone.vision, model.backbone.llm.embed_tokens
    prefix = torch.cat([*(vision.projector(vision.tower(image)) for image in images), words(batch.text_ids)], dim=1)
    suffix = model.head._embed(x, t, batch.state)
    assert batch.actions is not None
    losses = model.loss(batch, noise=torch.zeros_like(x) + x, time=t)
    entropy, error = torch.zeros(()), torch.zeros(())
    for row in range(3):
        before = prefix.shape[1] - batch.text_ids.shape[1]
        valid = [True] * before + batch.text_valid[row].tolist()
        hidden = [False] * before + (batch.text_kind[row] == TextKind.ACTION).tolist()
        visible, positions = rules(valid, hidden, 4)
        states, chunk = joint(model, prefix[row], suffix[row], visible, positions)
        expected = model.head.action_out_proj(chunk)
        torch.testing.assert_close(velocity[row, 0], expected, atol=1e-5, rtol=1e-4)
        for slot in batch.text_loss[row].nonzero()[:, 0].tolist():
            logits = states[before + slot - 1] @ model.backbone.llm.embed_tokens.weight.T
            entropy = entropy - logits.log_softmax(-1)[batch.text_ids[row, slot]]
        noisy = t[row, 0] * x[row, 0] + (1 - t[row, 0]) * batch.actions[row]
        _, chunk = joint(
            model,
            prefix[row],
            model.head._embed(noisy[None, None], t[row][None], batch.state[row : row + 1])[0],
            visible,
            positions,
        )
        error = error + (model.head.action_out_proj(chunk) - (x[row, 0] - batch.actions[row])).pow(2).sum()
    text = losses.terms["text"].sum + losses.terms["action_tokens"].sum
    torch.testing.assert_close(text, entropy, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(losses.terms["flow"].sum, error, atol=1e-4, rtol=1e-5)

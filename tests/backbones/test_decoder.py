"""The common backbone: queries, and what cannot be combined."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from visuomotor.backbones.base import ContextRequest
from visuomotor.backbones.decoder import DecoderBackbone, Reading
from visuomotor.backbones.towers import PrismaticVision
from visuomotor.contract import Batch, TextKind
from visuomotor.models.raw import raw_batch
from visuomotor.nn.decoder import DecoderConfig
from visuomotor.nn.vit import ViTConfig

TOWER = ViTConfig(image_size=16, patch_size=8, width=8, layers=2, heads=2, mlp_width=8)
LLM = DecoderConfig(
    width=16, mlp_width=16, layers=2, heads=2, kv_heads=2, head_dim=8, vocab_size=30, qk_norm=False, rope_theta=1e4
)
STARTS, QUERIES = (3, 5), 2


def build(film: int = 0, **reading: object) -> DecoderBackbone:
    torch.manual_seed(0)
    tower = replace(TOWER, film=film)
    fields = {"attention": "full", "images_after": 1, "output": "none", **reading}
    return DecoderBackbone(PrismaticVision(tower, tower, LLM.width), LLM, Reading(**fields)).eval()  # type: ignore[arg-type]


def make_batch(pixels: Tensor | None = None) -> Batch:
    """Prompts of 3 and 5 tokens, two queries, one more token; padding in front and behind."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(30, (2, 9), generator=generator)
    valid = torch.tensor([[1] * 6 + [0] * 3, [0] + [1] * 8]).bool()
    pixels = torch.randn(2, 1, 6, 16, 16, generator=generator) if pixels is None else pixels
    batch = raw_batch(pixels, torch.ones(2, 1).bool(), ids, valid)
    kind = batch.text_kind.clone()
    kind[0, 3:5] = kind[1, 6:8] = int(TextKind.QUERY)
    return replace(batch, text_kind=kind)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["full", "causal"])
def test_states_are_read_one_slot_before_each_query(attention: str) -> None:
    backbone, batch = build(attention=attention), make_batch()
    request = ContextRequest(layers=(0, 1, -1), at="queries", queries=QUERIES)
    found = backbone.observe(batch, request).states
    everywhere = backbone.observe(batch, replace(request, at="all")).states
    for layer, states in found.items():
        assert states.shape == (2, QUERIES, 16)
        for row, start in enumerate(STARTS):  # four patches stand behind the first token
            assert torch.equal(states[row], everywhere[layer][row, 4 + start - 1 : 4 + start - 1 + QUERIES])
    assert not everywhere[0][0, 4 + STARTS[0]].any()  # the embedding of a query
    assert found[0][0, 0].any()


@torch.no_grad()
def test_with_full_attention_the_first_query_sees_the_last_token() -> None:
    request = ContextRequest(layers=(-1,), at="queries", queries=QUERIES)
    batch = make_batch()
    other = replace(batch, text_ids=batch.text_ids.clone())
    other.text_ids[0, 5] = (other.text_ids[0, 5] + 1) % 30
    for attention, seen in (("full", True), ("causal", False)):
        backbone = build(attention=attention)
        a, b = (backbone.observe(one, request).states[-1] for one in (batch, other))
        assert torch.equal(a[0], b[0]) != seen
        assert torch.equal(a[1], b[1])


@torch.no_grad()
def test_a_text_feature_leaves_out_queries_and_padding() -> None:
    seen = []
    backbone = build(film=LLM.width)
    backbone.vision.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    batch, request = make_batch(), ContextRequest(layers=(-1,), at="queries", queries=QUERIES)
    backbone.observe(batch, request)
    backbone.reading = replace(backbone.reading, film_padding=True)
    backbone.observe(batch, request)
    table, ids = backbone.llm.embed_tokens.weight, batch.text_ids
    words = batch.text_valid & (batch.text_kind != int(TextKind.QUERY))
    padded = batch.text_kind != int(TextKind.QUERY)
    for found, chosen in zip(seen, (words, padded), strict=True):
        expected = torch.stack([table[ids[row][chosen[row]]].mean(0) for row in range(2)])
        torch.testing.assert_close(found, expected)


def test_impossible_readings_are_refused() -> None:
    with pytest.raises(ValueError, match="attention is 'full' and output is 'tied'"):
        Reading(attention="full")
    with pytest.raises(ValueError, match="reads 60 queries, but the sequence has 13 tokens"):
        build().observe(make_batch(), ContextRequest(layers=(-1,), at="queries", queries=60))
    with pytest.raises(ValueError, match="film is 0"):
        build().vision(torch.zeros(1, 6, 16, 16), torch.zeros(1, 16))

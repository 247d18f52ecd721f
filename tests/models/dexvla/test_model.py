"""Fusion, losses, writing and sampling of a tiny DexVLA."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.backbones.qwen2_vl.test_backbone import oracle_inputs, qwen
from tests.models.dexvla.conftest import END_ID, TINY_UNET_HEAD, make_texts
from visuomotor.backbones.qwen2_vl.arrangement import arrange
from visuomotor.backbones.qwen2_vl.towers import read
from visuomotor.contract import Batch
from visuomotor.models import config_from_json, config_to_json, make_config, make_model
from visuomotor.models.dexvla import NAMES, DexVLA, UNetConfig
from visuomotor.text.grammar import Line

NOISE = torch.randn(3, 1, 4, 3, generator=torch.Generator().manual_seed(3))


def plain_condition(model: DexVLA, states: Tensor, labels: Tensor, padding: int) -> Tensor:
    """Specification 2.2 for one row, written out: states [P, W], labels -100 over the prompt."""
    change = (labels == -100).int().diff().nonzero()
    first = int(change[0]) + 1
    weights = NAMES.state(model)

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def projected(name: str, x: Tensor) -> Tensor:
        return linear(f"{name}.mlps.2", F.gelu(linear(f"{name}.mlps.0", x.mean(0))))

    prompt, answer = states[padding:first], states[first:]
    x, r = projected("input_action_proj", prompt), projected("reasoning_action_proj", answer)
    return x * (1 + linear("reasoning_film.scale_fc", r)) + linear("reasoning_film.shift_fc", r) + prompt.mean(0)


@torch.no_grad()
def told(model: DexVLA, batch: Batch) -> Tensor:
    prefix = model.encode(batch)
    return model.head.condition(prefix)


def prompts_of(batch: Batch) -> Batch:
    """The batch without its answers, as at inference."""
    return replace(batch, text_valid=batch.text_valid & ~batch.text_loss, text_loss=torch.zeros_like(batch.text_loss))


def test_the_condition_is_the_published_formula(dexvla: DexVLA, batch: Batch) -> None:
    layout = arrange(batch, dexvla.config.image_id, dexvla.config.image_grid)
    with torch.no_grad():
        states, _ = read(
            dexvla.backbone.llm, dexvla.backbone._embed(batch, layout), layout.positions, layout.slots.valid
        )
    labels = layout.slots.ids.where(layout.slots.loss, -100)
    padding = (~layout.slots.valid).sum(1).tolist()
    expected = [plain_condition(dexvla, *row) for row in zip(states, labels, padding, strict=True)]
    torch.testing.assert_close(told(dexvla, batch)[:, 0], torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_a_fresh_film_hears_no_reasoning_and_a_trained_one_does(
    make_dexvla: Callable[..., DexVLA], batch: Batch
) -> None:
    model = make_dexvla()
    other = replace(batch, text_ids=batch.text_ids.where(~batch.text_loss, 20))
    assert not torch.allclose(told(model, batch), told(model, other))
    for parameter in model.head.film.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(told(model, batch), told(model, other))
    assert all(not p.any() for p in DexVLA(model.config).head.film.parameters())


def test_without_an_answer_the_last_prompt_state_stands_for_it(dexvla: DexVLA, batch: Batch) -> None:
    prefix = dexvla.encode(prompts_of(batch))
    with torch.no_grad():
        prompt = torch.stack([s[v].mean(0) for s, v in zip(prefix.states[-1], prefix.valid, strict=True)])
        r = dexvla.head.answer_projector(prefix.states[-1][:, -1])
        expected = dexvla.head.film(dexvla.head.prompt_projector(prompt), r) + prompt
    torch.testing.assert_close(told(dexvla, prompts_of(batch))[:, 0], expected)


def test_a_row_does_not_depend_on_who_shares_its_batch(dexvla: DexVLA, batch: Batch) -> None:
    together = dexvla.sample(prompts_of(batch), noise=NOISE, generate=6)
    for row in range(3):
        alone = replace(prompts_of(batch), images={k: v[row : row + 1] for k, v in batch.images.items()})
        alone = replace(alone, **{n: getattr(alone, n)[row : row + 1] for n in ("text_ids", "text_valid", "text_kind")})
        alone = replace(alone, **{n: getattr(alone, n)[row : row + 1] for n in ("text_loss", "state", "embodiment")})
        found = dexvla.sample(alone, noise=NOISE[row : row + 1], generate=6)
        torch.testing.assert_close(found.actions[0], together.actions[row], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_writing_is_greedy_generation_of_transformers(dexvla: DexVLA, batch: Batch, limit: int) -> None:
    """Ids and the states that the head is told of: those of every step, without the last token's."""
    prompts = prompts_of(batch)
    layout = arrange(prompts, dexvla.config.image_id, dexvla.config.image_grid)
    expected = qwen(dexvla).generate(
        **oracle_inputs(dexvla, prompts, layout), max_new_tokens=limit, do_sample=False, num_beams=1,
        eos_token_id=END_ID, pad_token_id=dexvla.config.pad_id, output_hidden_states=True, return_dict_in_generate=True,
    )  # fmt: skip
    prefix = dexvla.encode(prompts, text=True)
    ids = dexvla.sample(prompts, prefix=prefix, noise=NOISE, generate=limit).text_ids
    assert ids is not None
    assert torch.equal(ids, expected.sequences[:, layout.slots.ids.shape[1] :])
    states = torch.cat([step[-1] for step in expected.hidden_states], dim=1)
    assert prefix.states[-1].shape == states.shape
    torch.testing.assert_close(prefix.states[-1][prefix.valid], states[prefix.valid], atol=1e-5, rtol=1e-5)


def test_what_was_written_conditions_as_the_same_answer_read_at_once(dexvla: DexVLA) -> None:
    """Training sees the answer's end, inference does not: but for it, both are the same."""
    prompts = make_texts([([5, 6, 7], []), ([8, 9], []), ([10, 11, 12, 13], [])])
    prefix = dexvla.encode(prompts, text=True)
    sampled = dexvla.sample(prompts, prefix=prefix, noise=NOISE, generate=5)
    assert sampled.text_ids is not None
    answers = []
    for row in sampled.text_ids.tolist():
        row = row[: row.index(END_ID) + 1] if END_ID in row else row
        answers.append(row[:-1])
    read_back = make_texts([(p, a) for p, a in zip([[5, 6, 7], [8, 9], [10, 11, 12, 13]], answers, strict=True)])
    torch.testing.assert_close(dexvla.head.condition(prefix), told(dexvla, read_back), atol=1e-5, rtol=1e-4)


def test_an_immediate_end_and_an_interruption_leave_no_answer(dexvla: DexVLA, batch: Batch) -> None:
    prompts = prompts_of(batch)
    without = dexvla.sample(prompts, noise=NOISE)
    line = Line(header=torch.zeros(0, dtype=torch.int64), length=5)
    late = dexvla.sample(prompts, noise=NOISE, lines=(line,), deadline=0.0)
    assert late.finished is not None
    assert not late.finished.any()
    assert torch.equal(late.actions, without.actions)
    first = dexvla.sample(prompts, noise=NOISE, generate=1).text_ids
    assert first is not None
    ending = DexVLA(replace(dexvla.config, end_id=int(first[0, 0]))).eval()  # now row 0 ends at once
    ending.load_state_dict(dexvla.state_dict())
    found = ending.sample(prompts, noise=NOISE, generate=5)
    torch.testing.assert_close(found.actions[0], without.actions[0])


def test_loss_terms_and_their_gradients(dexvla: DexVLA, batch: Batch) -> None:
    noise, time = torch.randn(3, 2, 4, 3), torch.randint(100, (3, 2))
    losses = dexvla.loss(batch, noise=noise, time=time)
    cond = told(dexvla, batch)
    valid = torch.ones(3, 4, 3, dtype=torch.bool)
    expected = dexvla.head.denoiser.loss(batch.actions, valid, cond, batch.state, noise=noise, time=time)
    torch.testing.assert_close(losses.terms["diffusion"].sum, expected.sum)
    assert losses.terms["text"].count == 6
    losses.total.backward()
    assert all(p.grad is not None and p.grad.any() for p in dexvla.parts()["film"])
    assert dexvla.backbone.vision.patch_embed.proj.weight.grad is not None


def test_rows_without_text_or_actions_add_nothing(dexvla: DexVLA, batch: Batch) -> None:
    none = torch.zeros_like(batch.action_valid)
    losses = dexvla.loss(replace(prompts_of(batch), action_valid=none))
    assert losses.terms["text"].count == losses.terms["diffusion"].count == 0
    assert set(dexvla.loss(replace(batch, actions=None)).terms) == {"text", "diffusion"}


def test_padded_columns_are_learnt_as_zeros(dexvla: DexVLA, batch: Batch) -> None:
    assert batch.action_valid is not None
    narrow = batch.action_valid.clone()
    narrow[..., 2:] = False
    narrow[0, 3] = False  # past the end of the episode
    term = dexvla.loss(replace(batch, action_valid=narrow)).terms["diffusion"]
    assert term.count == 2 * (9 + 12 + 12)


def test_several_samples_share_the_condition(dexvla: DexVLA, batch: Batch) -> None:
    noise = torch.cat([NOISE, NOISE.flip(0)], dim=1)
    both = dexvla.sample(batch, noise=noise)
    assert both.actions.shape == (3, 2, 4, 3)
    torch.testing.assert_close(both.actions[:, :1], dexvla.sample(batch, noise=NOISE).actions)
    prefix = dexvla.encode(batch)
    t = torch.full((3, 2), 7)
    found = dexvla.denoise(prefix, noise, t)
    state = batch.state
    torch.testing.assert_close(
        found[:, 1], dexvla.head.denoiser(noise[:, 1], t[:, 1], dexvla.head.condition(prefix), state)
    )


def test_each_robot_has_layers_of_its_own(make_dexvla: Callable[..., DexVLA], batch: Batch) -> None:
    robots = {"head.embodiments": ("arm", "hand"), "head.action_dims": (3, 2), "head.state_dims": (2, 1)}
    model = make_dexvla(head_per_embodiment=True, **robots)
    mixed = replace(batch, embodiment=torch.tensor([0, 1, 0]))
    assert not model.sample(mixed, noise=NOISE).actions[1, ..., 2:].any()
    one = replace(batch, embodiment=torch.zeros(3, dtype=torch.int64))
    model.loss(one, generator=torch.Generator().manual_seed(0)).total.backward()
    grads = {name: p.grad for name, p in model.head.denoiser.named_parameters() if name.startswith("embodiments.")}
    assert all((grad is None) == ("hand" in name) for name, grad in grads.items())


def test_the_unet_takes_the_same_place(make_dexvla: Callable[..., DexVLA], batch: Batch) -> None:
    model = make_dexvla(head=TINY_UNET_HEAD)
    assert model.sample(batch, noise=NOISE).actions.abs().max() <= 1
    assert model.loss(batch).terms["diffusion"].count == 3 * 2 * 12


def test_parts_are_disjoint_and_whole(dexvla: DexVLA) -> None:
    ids = [id(p) for part in dexvla.parts().values() for p in part]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in dexvla.parameters()}


def test_layers_may_be_computed_again(dexvla: DexVLA, batch: Batch) -> None:
    def gradients(again: bool) -> list[Tensor]:
        dexvla.train().zero_grad()
        dexvla.checkpoint_activations(again)
        dexvla.loss(batch, generator=torch.Generator().manual_seed(1)).total.backward()
        return [p.grad.clone() for p in dexvla.parameters() if p.grad is not None]

    for plain, again in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(plain, again)


def test_sizes_of_the_published_model() -> None:
    with torch.device("meta"):
        model = make_model("dexvla", make_config("dexvla", "base"))
    count = {name: sum(p.numel() for p in part) for name, part in model.parts().items()}
    assert count["head"] == 955_861_518
    assert model.config.image_grid == (9, 11)  # 252 x 308 pixels
    assert round((count["vision"] + count["merger"]) / 1e9, 3) == 0.665
    assert round((count["llm"] + count["embed"]) / 1e9, 3) == 1.544
    assert count["projectors"] + count["film"] == 3 * 4_721_664
    assert round(sum(count.values()) / 1e9, 3) == 3.179
    with torch.device("meta"):
        unet = make_model("dexvla", make_config("dexvla", "base-UNet"))
    assert round(sum(p.numel() for p in unet.head.denoiser.parameters()) / 1e6, 1) == 89.6
    assert not any(buffer.is_meta for buffer in unet.buffers())  # what no file holds is there


def test_configuration_comes_back_from_json_and_refuses_contradictions() -> None:
    robots = {"head.embodiments": ("a",), "head.action_dims": (3,), "head.state_dims": (2,)}
    for config in (
        make_config("dexvla", "base-L", head_per_embodiment=True, **robots),
        make_config("dexvla", "base-UNet", **{"head.channels": (256, 512)}),
    ):
        assert config_from_json(json.loads(json.dumps(config_to_json("dexvla", config)))) == ("dexvla", config)
    unet = {"head": UNetConfig(), "head_per_embodiment": True}
    for wrong in (unet, {"llm.mrope_sections": (4, 4, 4)}, {"llm.kv_heads": 3}, {"head.cond_dim": 5}):
        with pytest.raises(ValueError, match=r"\."):
            make_config("dexvla", **wrong)


@pytest.mark.parametrize("house", [True, False])  # float32 weights and bfloat16 products, or bfloat16 weights
def test_bfloat16_trains_and_samples(dexvla: DexVLA, batch: Batch, house: bool) -> None:
    exact = dexvla.sample(batch, noise=NOISE).actions
    model = dexvla if house else dexvla.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=house):
        losses = model.loss(batch, generator=torch.Generator().manual_seed(0))
        sampled = model.sample(prompts_of(batch), noise=NOISE, generate=3)
        rough = model.sample(batch, noise=NOISE).actions
    losses.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parts()["llm"])
    assert sampled.text_ids is not None
    assert (rough.float() - exact).abs().mean() < 0.1

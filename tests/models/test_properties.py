"""What is true of every preset, whatever its parts; where a published model departs from it, its spec says so."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from visuomotor.contract import Batch, Losses, TextKind
from visuomotor.models import find_spec, make_config, make_model
from visuomotor.models.vla import VLA
from visuomotor.training.step import split

PRESETS = [
    ("dm0", "nano"),
    ("pi0", "nano"),
    ("pi0", "nano-pi05"),
    ("cogact", "nano"),
    ("damvla", "nano"),
    ("dexvla", "nano"),
    ("dexvla", "nano-UNet"),
    ("dexvla-expert", "nano"),
    ("oft", "nano"),
]
# A draw's condition is dropped by chance, and decoupling has a meaning where a text loss trains the backbone.
DETERMINED = {"text_output": "tied", "action_model.unconditional_dropout": 0.0}
OPTIONS = {"cogact": DETERMINED, "damvla": DETERMINED}
# Where nobody taught them, their estimates of the data are noise over almost nothing, clamped in every step; their own
# tests pull the chunks of a predictor that knows its data (models/dexvla/test_shared.py).
UNTAUGHT = {"dexvla", "dexvla-expert"}
SIZE, ROLES, ITEMS = 3, ("scene", "wrist"), [1, 3]
Preset = tuple[str, str]


def build(preset: Preset, **overrides: Any) -> VLA:
    """The preset with weights from a fixed seed; zero matrices, as of fresh output layers, are filled."""
    torch.manual_seed(0)
    model = make_model(preset[0], make_config(*preset, **{**OPTIONS.get(preset[0], {}), **overrides}))
    assert isinstance(model, VLA)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    return model


def make_batch(model: VLA, seed: int = 0) -> Batch:
    """Rows with a prompt, and an answer from slot 6 on; row 1 is two tokens shorter and row 2 ends early.

    For heads that read queries, these stand in the place of the answer, and one more token of the prompt behind them.
    """
    generator = torch.Generator().manual_seed(seed)
    config, queries = model.config, model.head.request.queries
    length = 7 + queries if queries else 10
    ids = torch.randint(20, 900, (SIZE, length), generator=generator)
    ids[:, :4] = torch.tensor([3, 1, 4, 1])  # where a chat has its images
    valid = torch.ones(SIZE, length, dtype=torch.bool)
    valid[1, -2:] = False
    kind = torch.full((SIZE, length), int(TextKind.PROMPT))
    kind[:, 6:] = TextKind.SUBTASK
    if queries:
        for row, start in enumerate((6, 4, 6)):
            kind[row, 6:] = TextKind.PROMPT
            kind[row, start : start + queries] = TextKind.QUERY
    kind[~valid] = TextKind.PAD
    steps = torch.ones(SIZE, config.horizon, config.action_dim, dtype=torch.bool)
    steps[2, config.horizon // 2 :] = False
    images = {role: torch.randint(0, 256, (SIZE, 96, 96, 3), generator=generator, dtype=torch.uint8) for role in ROLES}
    shares = torch.rand(SIZE, config.horizon, generator=generator)
    labels = {"sentence": torch.randn(SIZE, 256, generator=generator), "router": torch.tensor([0.0, 1.0, 0.0])}
    return Batch(
        images=images,
        image_valid=torch.ones(SIZE, len(ROLES), dtype=torch.bool),
        text_ids=ids,
        text_valid=valid,
        text_kind=kind,
        text_loss=valid & (kind > TextKind.PROMPT) & (kind != TextKind.QUERY),
        state=torch.randn(SIZE, 8, generator=generator),
        actions=torch.randn(SIZE, config.horizon, config.action_dim, generator=generator).clamp(-1, 1),
        action_valid=steps,
        embodiment=torch.zeros(SIZE, dtype=torch.long),
        source=torch.arange(SIZE) % 2,
        weights={"trajectory": shares, "chunk": torch.ones_like(shares)},
        labels=labels,
    )


def with_views(batch: Batch, image_valid: Tensor) -> Batch:
    """The batch with other views; a chat has an image item for each that its row has."""
    text_valid = batch.text_valid.clone()
    text_valid[:, ITEMS] = image_valid
    present = dict(zip(ROLES, image_valid.any(0).tolist(), strict=True))
    images = {role: image for role, image in batch.images.items() if present[role]}
    return replace(batch, images=images, image_valid=image_valid, text_valid=text_valid)


def pick(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a batch, with the views that any of them has."""
    chosen = batch.map(lambda tensor: tensor[rows])
    present = chosen.image_valid[:, list(batch.views)].any(0)
    images = {name: image for (name, image), there in zip(chosen.images.items(), present, strict=True) if there}
    return replace(chosen, images=images)


def one_draw(given: dict[str, Any], index: int) -> dict[str, Any]:
    return {name: tensor[:, index : index + 1] for name, tensor in given.items()}


def draws(model: VLA, batch: Batch, count: int, seed: int = 3) -> dict[str, Any]:
    """Noise and times for `count` draws of each row, in the head's own convention."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(batch.size, count, model.config.horizon, model.config.action_dim, generator=generator)
    time = torch.rand(batch.size, count, generator=generator) * 0.9 + 0.05
    return {"noise": noise, "time": time if model.head.unit_time else (100 * time).long()}


def summed(losses: Losses) -> dict[str, tuple[Tensor, Tensor]]:
    return {name: (term.sum.detach(), term.count.float()) for name, term in losses.terms.items()}


def same(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-4)


@pytest.fixture(params=PRESETS, ids=lambda preset: "-".join(preset))
def preset(request: pytest.FixtureRequest) -> Preset:
    return request.param


def cannot_decouple(preset: Preset) -> bool:
    """A model without any other loss on its backbone has no such option, and says so."""
    if "decoupling" not in find_spec(preset[0]).exceptions:
        return False
    assert not build(preset).writes
    with pytest.raises(ValueError, match="gradient_decoupling"):
        make_config(*preset, gradient_decoupling=True)
    return True


def test_decoupling_changes_gradients_alone(preset: Preset) -> None:
    if cannot_decouple(preset):
        return
    plain, cut = build(preset), build(preset, gradient_decoupling=True)
    plain.routing = replace(plain.routing, decoupled=False, sources=None)
    batch = make_batch(plain)
    silent = replace(batch, text_loss=torch.zeros_like(batch.text_loss))
    found = []
    for model in (plain, cut):
        losses = model.loss(silent, **draws(model, batch, 2))
        losses.total.backward()
        found.append(summed(losses))
    same(found[0], found[1], tolerance=0)
    reaching = {n for n, p in plain.backbone.named_parameters() if p.grad is not None}
    assert reaching
    assert all(p.grad is None for p in cut.backbone.parameters())
    for (name, own), (_, other) in zip(plain.head.named_parameters(), cut.head.named_parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None), name
        if own.grad is not None and other.grad is not None:
            assert torch.equal(own.grad, other.grad), name


def test_decoupling_of_one_source_stops_its_rows_alone(preset: Preset) -> None:
    if cannot_decouple(preset):
        return
    model = build(preset, gradient_decoupling=True, decoupled_sources=(0,))
    batch = make_batch(model)
    silent = replace(batch, text_loss=torch.zeros_like(batch.text_loss))
    for rows, passes in (([0, 2], False), ([1], True)):
        part = pick(silent, rows)
        model.zero_grad(set_to_none=True)
        model.loss(part, **draws(model, part, 1)).total.backward()
        moved = any(p.grad is not None and bool(p.grad.any()) for p in model.backbone.parameters())
        assert moved == passes


def test_a_cached_context_equals_an_uncached_one(preset: Preset) -> None:
    model = build(preset).eval()
    batch = replace(make_batch(model), actions=None, action_valid=None)
    given = draws(model, batch, 2)
    with torch.no_grad():
        cached = model.denoise(model.encode(batch), given["noise"], given["time"])
    same(model.denoise(model.encode(batch), given["noise"], given["time"]).detach(), cached)


@torch.no_grad()
def test_a_masked_view_equals_an_absent_one(preset: Preset) -> None:
    model = build(preset).eval()
    batch = replace(make_batch(model), actions=None, action_valid=None)
    noise = draws(model, batch, 1)["noise"]
    absent = with_views(batch, torch.tensor([[True, False]] * SIZE))
    mask = torch.ones_like(batch.image_valid)
    mask[:2, 1] = False
    masked = with_views(batch, mask)
    assert masked.mixes_views
    found = model.sample(masked, noise=noise).actions
    same(found[:2], model.sample(absent, noise=noise).actions[:2])
    same(found[2], model.sample(batch, noise=noise).actions[2])
    painted = {**batch.images, "wrist": batch.images["wrist"].clone()}
    painted["wrist"][:2] = 255
    assert torch.equal(model.sample(replace(masked, images=painted), noise=noise).actions, found)


def test_draws_of_one_context_equal_as_many_passes(preset: Preset) -> None:
    model = build(preset)
    batch, given = make_batch(model), draws(model, make_batch(model), 3)
    together = summed(model.loss(batch, **given))
    if "draws" in find_spec(preset[0]).exceptions:  # nothing is drawn, so neither number nor values of the draws matter
        for other in (one_draw(given, 1), {}):
            assert summed(model.loss(batch, **other)) == together
        return
    single = [summed(model.loss(batch, **one_draw(given, k))) for k in range(3)]
    for name in model.head.terms:
        for part in (0, 1):
            same(together[name][part], sum(s[name][part] for s in single), tolerance=1e-3)


def test_a_mixed_batch_equals_its_rows(preset: Preset) -> None:
    """A row with all views, one without a view, one without actions."""
    model = build(preset)
    batch = make_batch(model)
    assert batch.action_valid is not None
    batch.action_valid[2] = False
    batch = with_views(batch, torch.tensor([[True, True], [True, False], [True, True]]))
    assert batch.mixes_views
    given = draws(model, batch, 2)
    whole = model.loss(batch, **given)
    for row in range(SIZE):
        part = pick(batch, [row])
        noise, time = (given[name][row : row + 1] for name in ("noise", "time"))
        alone = model.loss(part, noise=noise, time=time)
        for name, term in whole.terms.items():
            if term.rows is None:
                assert float(alone.terms[name].count) == 0
                continue
            expected = torch.stack([alone.terms[name].sum.detach(), alone.terms[name].count.float()])
            same(term.rows[:, row], expected, tolerance=1e-3)


def test_a_micro_batch_may_have_no_view_at_all(preset: Preset) -> None:
    """Its images are of views that other rows of the batch have, e.g. beside a conversation without pictures."""
    model = build(preset)
    batch = with_views(make_batch(model), torch.tensor([[True, True], [True, False], [False, False]]))
    given = draws(model, batch, 1)
    last = {name: tensor[2:] for name, tensor in given.items()}
    found = model.loss(split(batch, SIZE)[2], **last)
    found.total.backward()
    bare = replace(pick(batch, [2]), images={})
    for name, (total, count) in summed(model.loss(bare, **last)).items():
        same((found.terms[name].sum.detach(), found.terms[name].count.float()), (total, count))


def test_terms_and_their_weights_do_not_depend_on_the_batch(preset: Preset) -> None:
    """The last micro-batch of a step, from which the logged loss takes the weights, may be without actions."""
    model = build(preset)
    batch = make_batch(model)
    assert batch.action_valid is not None
    silent = replace(batch, action_valid=torch.zeros_like(batch.action_valid))
    mute = replace(silent, text_loss=torch.zeros_like(batch.text_loss))
    expected = {name: term.weight for name, term in model.loss(batch).terms.items()}
    for other in (silent, mute):
        assert {name: term.weight for name, term in model.loss(other).terms.items()} == expected


def test_step_weights_multiply_errors(preset: Preset) -> None:
    model = build(preset)
    batch, given = make_batch(model), draws(model, make_batch(model), 1)
    ones = torch.ones(SIZE, model.config.horizon)

    def total(weight: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        return summed(model.loss(replace(batch, weights={**batch.weights, "emphasis": weight}), **given))

    plain, double, none = total(ones), total(2 * ones), total(0 * ones)
    for name in model.head.terms:
        if name == "router":
            continue
        same(double[name][0], 2 * plain[name][0], tolerance=1e-3)
        assert float(none[name][0]) == 0 < float(plain[name][0])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["guided", "identity"])
def test_guidance_pulls_tied_actions_to_their_target(preset: Preset, kind: str) -> None:
    from visuomotor.nn.guidance import Guidance

    model = build(preset).eval()
    batch = replace(make_batch(model), actions=None, action_valid=None)
    noise = draws(model, batch, 1)["noise"]
    if "guidance" in find_spec(preset[0]).exceptions:
        target = torch.zeros(SIZE, *noise.shape[2:])
        with pytest.raises(ValueError, match="takes none"):
            model.sample(batch, chunk_guidance=Guidance(target=target, weights=target, kind=kind))
        with pytest.raises(ValueError, match="classifier-free"):
            model.sample(batch, guidance=2.0)
        return
    free = model.sample(batch, noise=noise).actions
    target = torch.full(free.shape[:1] + free.shape[2:], 0.5)
    weights = torch.zeros_like(target)
    nothing = model.sample(batch, noise=noise, chunk_guidance=Guidance(target=target, weights=weights, kind=kind))
    same(nothing.actions, free, tolerance=1e-4)
    if preset[0] in UNTAUGHT:
        return
    weights[:, :3] = 1
    tied = model.sample(batch, noise=noise, chunk_guidance=Guidance(target=target, weights=weights, kind=kind)).actions
    before, after = ((a[:, :, :3] - 0.5).abs().mean() for a in (free, tied))
    assert after < 0.7 * before


def test_unknown_options_are_refused_with_the_nearest_name(preset: Preset) -> None:
    name = fields(make_config(*preset))[-1].name
    with pytest.raises(ValueError, match=f"Did you mean '{name}'"):
        make_config(*preset, **{name + "s": 4})


@torch.no_grad()
def test_a_scale_of_guidance_counts_or_is_refused(preset: Preset) -> None:
    model = build(preset).eval()
    batch = replace(make_batch(model), actions=None, action_valid=None)
    noise = draws(model, batch, 1)["noise"]
    if model.head.classifier_free:
        plain, strong = (model.sample(batch, noise=noise, guidance=scale).actions for scale in (1.0, 4.0))
        assert (plain - strong).abs().max() > 1e-4
        return
    with pytest.raises(ValueError, match="classifier-free"):
        model.sample(batch, noise=noise, guidance=1.5)

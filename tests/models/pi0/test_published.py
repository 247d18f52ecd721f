"""Against the plain reference on random weights under the published names."""

import math

import pytest
import torch
from torch import Tensor

from tests.models.pi0.conftest import DIMENSIONS, Inputs
from tests.models.pi0.reference import (
    EMBED,
    EXPERT,
    LLM,
    OUTPUT,
    TOP,
    TOWER,
    ReferencePi0,
    published_names,
    random_tensors,
)
from visuomotor.models import make_config, make_model
from visuomotor.models.pi0 import from_published
from visuomotor.models.pi0.checkpoint import written_tensors

UNUSED = TOP + "gemma_expert.lm_head.weight"


@pytest.fixture
def tensors(adaptive: bool) -> dict[str, Tensor]:
    return random_tensors(adaptive)


@torch.no_grad()
def test_velocity(tensors: dict[str, Tensor], inputs: Inputs, noise: Tensor, time: Tensor) -> None:
    velocity = from_published(tensors, **DIMENSIONS).velocity(**inputs, x=noise, t=time)
    expected = ReferencePi0(tensors).velocity(**inputs, x=noise, t=time)
    assert expected.abs().mean() > 0.1
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_ten_steps(tensors: dict[str, Tensor], inputs: Inputs, noise: Tensor) -> None:
    actions = from_published(tensors, **DIMENSIONS).sample_actions(**inputs, noise=noise)
    expected = ReferencePi0(tensors).sample_actions(**inputs, noise=noise)
    torch.testing.assert_close(actions, expected, atol=1e-3, rtol=0)


def test_loss_and_gradients(
    tensors: dict[str, Tensor], inputs: Inputs, noise: Tensor, time: Tensor, adaptive: bool
) -> None:
    model = from_published(tensors, **DIMENSIONS)
    actions = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(3))
    errors = model.loss(**inputs, actions=actions, noise=noise, t=time)
    own = {name: t.clone().requires_grad_() for name, t in tensors.items() if name != UNUSED}
    t = time[:, None, None]
    x = t * noise + (1 - t) * actions
    expected = (ReferencePi0(own).velocity(**inputs, x=x, t=time) - (noise - actions)).square()
    torch.testing.assert_close(errors, expected, atol=1e-4, rtol=1e-4)
    weights = torch.rand(3, 6, 5, generator=torch.Generator().manual_seed(4))
    (errors * weights).sum().backward()
    (expected * weights).sum().backward()
    own[EMBED] = own.pop(OUTPUT)
    parameters = model.published_parameters()
    assert parameters.keys() == own.keys()
    blind = {LLM + "norm.weight"} | {
        f"{LLM}layers.2.{name}.weight"
        for name in ("self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "post_attention_layernorm")
    } | {LLM + "layers.2.self_attn.q_proj.weight"}  # fmt: skip
    for name, parameter in parameters.items():
        gradient = own[name].grad
        if name in blind:
            assert parameter.grad is None
            assert gradient is None or not gradient.any()
            continue
        assert gradient is not None
        assert parameter.grad is not None, name
        scale = gradient.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(parameter.grad.view_as(gradient) / scale, gradient / scale, atol=1e-4, rtol=0)


@torch.no_grad()
def test_bfloat16(tensors: dict[str, Tensor], inputs: Inputs, noise: Tensor, time: Tensor) -> None:
    model, reference = from_published(tensors, **DIMENSIONS, precision="reference"), ReferencePi0(tensors, mixed=True)
    for found, expected in (
        (model.velocity(**inputs, x=noise, t=time), reference.velocity(**inputs, x=noise, t=time)),
        (model.sample_actions(**inputs, noise=noise), reference.sample_actions(**inputs, noise=noise)),
    ):
        assert found.dtype == torch.float32
        assert (found - expected).norm() < 2e-2 * expected.norm()
    types = {name: reference.w[OUTPUT if name == EMBED else name].dtype for name in model.published_parameters()}
    assert {name: p.dtype for name, p in model.published_parameters().items()} == types
    assert set(types.values()) == {torch.float32, torch.bfloat16}


@torch.no_grad()
def test_what_is_masked_is_not_read(tensors: dict[str, Tensor], inputs: Inputs, noise: Tensor, time: Tensor) -> None:
    model = from_published(tensors, **DIMENSIONS)
    velocity = model.velocity(**inputs, x=noise, t=time)
    images, ids = inputs["images"].clone(), inputs["ids"].clone()
    images[~inputs["view_mask"]] = 1e6
    ids[~inputs["text_mask"]] = 39 - ids[~inputs["text_mask"]]
    other = model.velocity(**{**inputs, "images": images, "ids": ids}, x=noise, t=time)
    assert torch.equal(velocity, other)
    first = {name: None if value is None else value[:1] for name, value in inputs.items()}
    first |= {"images": first["images"][:, :2], "view_mask": first["view_mask"][:, :2]}
    alone = model.velocity(**first, x=noise[:1], t=time[:1])
    torch.testing.assert_close(alone, velocity[:1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_view_is_encoded_for_the_rows_that_have_it(tensors: dict[str, Tensor], inputs: Inputs, noise: Tensor) -> None:
    model, encoded = from_published(tensors, **DIMENSIONS), []
    tower = model.pi0.backbone.vision.tower
    tower.register_forward_pre_hook(lambda _, args: encoded.append(len(args[0])))
    model.sample_actions(**inputs, noise=noise)
    assert encoded == [int(inputs["view_mask"].sum())]


@torch.no_grad()
@pytest.mark.parametrize("adaptive", [True])
def test_flow_time_by_token(tensors: dict[str, Tensor], inputs: Inputs, noise: Tensor, time: Tensor) -> None:
    model = from_published(tensors, **DIMENSIONS)
    each = time[:, None].expand(-1, 6).contiguous()
    velocity = model.velocity(**inputs, x=noise, t=each)
    torch.testing.assert_close(velocity, model.velocity(**inputs, x=noise, t=time), atol=1e-5, rtol=1e-5)
    each[:, :2] = 0
    velocity = model.velocity(**inputs, x=noise, t=each)
    torch.testing.assert_close(
        velocity, ReferencePi0(tensors).velocity(**inputs, x=noise, t=each), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_names_that_files_have(tensors: dict[str, Tensor], inputs: Inputs, noise: Tensor, time: Tensor) -> None:
    expected = from_published(tensors, **DIMENSIONS).velocity(**inputs, x=noise, t=time)
    without = {name: t for name, t in tensors.items() if name not in (OUTPUT, UNUSED)}
    buffers = {
        f"{group}.buffer_{name}.{kind}": torch.randn(5)
        for group, name in (
            ("normalize_inputs", "observation_state"),
            ("normalize_targets", "action"),
            ("unnormalize_outputs", "action"),
        )
        for kind in ("mean", "std")
    }
    table = tensors[OUTPUT]
    for variant in (
        {**without, EMBED: table},
        {**without, EMBED: table, OUTPUT: table},
        {f"model.{name}": t for name, t in tensors.items()},
        {**{f"model.{name}": t for name, t in tensors.items()}, **buffers},
    ):
        velocity = from_published(variant, **DIMENSIONS).velocity(**inputs, x=noise, t=time)
        assert torch.equal(velocity, expected)


def test_a_file_that_does_not_fit(tensors: dict[str, Tensor]) -> None:
    names = (
        LLM + "layers.1.mlp.up_proj.weight",
        TOWER + "encoder.layers.1.self_attn.k_proj.bias",
        "action_in_proj.bias",
    )
    for name in names:
        less = {n: t for n, t in tensors.items() if n != name}
        with pytest.raises(ValueError, match=rf"missing \({name}"):
            from_published(less, **DIMENSIONS)
        with pytest.raises(ValueError, match=rf"mismatched \({name}"):
            from_published({**tensors, name: tensors[name][:-1]}, **DIMENSIONS)
    for name in ("extra.weight", TOWER + "head.probe", EXPERT + "layers.0.input_layernorm.scale"):
        with pytest.raises(ValueError, match=rf"unexpected \({name}"):
            from_published({**tensors, name: torch.zeros(1)}, **DIMENSIONS)
    with pytest.raises(ValueError, match=f"{LLM}layers.0.mlp.gate_proj.weight is missing"):
        from_published({n: t for n, t in tensors.items() if "gate_proj" not in n}, **DIMENSIONS)
    with pytest.raises(ValueError, match="precision is 'half'"):
        from_published(tensors, **DIMENSIONS, precision="half")  # type: ignore[arg-type]


def test_an_untied_output_layer_is_left_out(tensors: dict[str, Tensor], caplog: pytest.LogCaptureFixture) -> None:
    model = from_published({**tensors, EMBED: tensors[OUTPUT] + 1}, **DIMENSIONS)
    assert torch.equal(model.published_parameters()[EMBED], tensors[OUTPUT] + 1)
    assert "left out" in caplog.text
    caplog.clear()
    from_published({**tensors, EMBED: tensors[OUTPUT]}, **DIMENSIONS)
    assert not caplog.text


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_state_belongs_to_one_kind(adaptive: bool, inputs: Inputs, noise: Tensor, time: Tensor) -> None:
    model = from_published(random_tensors(adaptive), **DIMENSIONS)
    wrong = torch.zeros(3, 5) if adaptive else None
    with pytest.raises(ValueError, match="state"):
        model.velocity(**{**inputs, "state": wrong}, x=noise, t=time)


def test_what_is_written_is_read_back(tensors: dict[str, Tensor]) -> None:
    model = from_published({f"model.{name}": t for name, t in tensors.items()}, **DIMENSIONS)
    written = written_tensors(model.pi0)
    assert written.keys() == tensors.keys() - {UNUSED}
    assert all(torch.equal(written[name], tensors[name]) for name in written)
    again = from_published(written, **DIMENSIONS).pi0
    assert again.config == model.pi0.config
    for name, tensor in model.pi0.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.parametrize(("size", "adaptive", "count", "parameters"), [
    ("base", False, 777, 3_238_048_528), ("base-pi05", True, 812, 3_353_433_872),
])  # fmt: skip
def test_published_sizes(size: str, adaptive: bool, count: int, parameters: int) -> None:
    with torch.device("meta"):
        model = make_model("pi0", make_config("pi0", size))
    assert sum(p.numel() for p in model.parameters()) == parameters
    shape = {
        "width": 2048, "mlp": 16384, "expert": 1024, "expert_mlp": 4096, "tower": 1152, "tower_mlp": 4304, "patch": 14,
        "patches": 256, "action": 32, "vocabulary": 257152, "heads": 8, "head_dim": 256,
    }  # fmt: skip
    names = dict(published_names(adaptive=adaptive, tower_layers=27, layers=18, shape=shape))
    assert len(names) == count
    assert math.prod(names.pop(UNUSED)) == 263_323_648
    assert {name: tuple(t.shape) for name, t in written_tensors(model).items()} == names

from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional as F

from visuomotor.models.cogact import ACTION_MODEL_SIZES, ActionModel, ActionModelConfig

CONFIG = ActionModelConfig(width=32, depth=2, heads=4, token_size=12, horizon=5, action_dim=3)


@pytest.fixture
def model() -> ActionModel:
    """With an output that is not zero."""
    torch.manual_seed(0)
    model = ActionModel(CONFIG)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, z = torch.randn(4, 5, 3, generator=generator), torch.randn(4, 1, 12, generator=generator)
    return x, torch.tensor([0, 13, 50, 99]), z


@pytest.mark.parametrize(("size", "count"), [("S", 12_476_807), ("B", 88_986_887), ("L", 307_764_231)])
def test_published_sizes_have_the_published_number_of_parameters(size: str, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in ActionModel(ACTION_MODEL_SIZES[size]).parameters()) == count


def test_names_are_the_published_ones(model: ActionModel) -> None:
    linears = ["x_embedder.linear", "history_embedder.linear", "z_embedder.linear", "t_embedder.mlp.0",
               "t_embedder.mlp.2", "final_layer.linear"]  # fmt: skip
    linears += [f"blocks.{i}.{part}" for i in range(2) for part in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    names = {f"{name}.{kind}" for name in linears for kind in ("weight", "bias")}
    assert set(model.state_dict()) == names | {"positional_embedding", "z_embedder.uncondition"}
    assert model.z_embedder.uncondition.shape == (1, 12)


@torch.no_grad()
def test_forward_follows_the_formulas(model: ActionModel, inputs: tuple[Tensor, ...]) -> None:
    """Written anew with pytorch's encoder layers and diffusers' sinusoids."""
    x, t, z = inputs
    torch.testing.assert_close(model(x, 7, z), model(x, torch.full_like(t, 7), z))
    own = model.state_dict()

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, own[f"{name}.weight"], own[f"{name}.bias"])

    code = get_timestep_embedding(t, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    time = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", code)))
    states = torch.cat([time[:, None] + linear("z_embedder.linear", z), linear("x_embedder.linear", x)], dim=1)
    states = states + own["positional_embedding"]
    for i in range(2):
        layer = nn.TransformerEncoderLayer(
            32, 4, 128, dropout=0.0, activation=lambda v: F.gelu(v, approximate="tanh"), batch_first=True,
            norm_first=True, layer_norm_eps=1e-6,
        ).eval()  # fmt: skip
        names = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.",
                 "linear2.": "mlp.fc2."}  # fmt: skip
        weights = {a + kind: own[f"blocks.{i}.{b}{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
        layer.load_state_dict(weights, strict=False)  # norms start at identity
        states = layer(states)
    expected = linear("final_layer.linear", F.layer_norm(states, (32,), eps=1e-6))[:, 1:]
    torch.testing.assert_close(model(x, t, z), expected, atol=1e-5, rtol=1e-5)


def test_a_fresh_model_predicts_nothing_and_is_initialised_as_published() -> None:
    torch.manual_seed(0)
    model = ActionModel(replace(CONFIG, width=128, token_size=256))
    x, z = torch.randn(2, 5, 3), torch.randn(2, 1, 256)
    assert not model(x, torch.tensor([3, 90]), z).any()
    for weight in (model.z_embedder.linear.weight, model.z_embedder.uncondition, model.t_embedder.mlp[0].weight):
        assert 0.015 < weight.std() < 0.025
    for block in model.blocks:
        limit = (6 / (128 + 3 * 128)) ** 0.5  # Glorot
        assert 0.95 * limit < block.attn.qkv.weight.abs().max() <= limit
    assert model.positional_embedding.std().sub(128**-0.5).abs() < 0.01
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert biases
    assert not any(bias.any() for bias in biases)


def test_dropped_rows_do_not_know_their_feature(model: ActionModel, inputs: tuple[Tensor, ...]) -> None:
    x, t, z = inputs
    z.requires_grad_()
    drop = torch.tensor([True, False, True, False])
    found = model(x, t, z, drop)
    nothing = model.z_embedder.uncondition.expand(4, 1, 12)
    torch.testing.assert_close(found[drop], model(x, t, nothing)[drop])
    torch.testing.assert_close(found[~drop], model(x, t, z)[~drop])
    found.square().sum().backward()
    assert z.grad is not None
    assert not z.grad[drop].any()
    assert z.grad[~drop].any(dim=-1).all()
    assert model.z_embedder.uncondition.grad is not None
    assert model.history_embedder.linear.weight.grad is None


@torch.no_grad()
def test_loss_is_the_error_of_the_noise_for_each_draw(model: ActionModel, inputs: tuple[Tensor, ...]) -> None:
    actions, _, z = inputs
    noise, time = torch.randn(4, 2, 5, 3), torch.randint(100, (4, 2))
    drop = torch.tensor([[False, True]] * 4)
    oracle = diffusers.DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2")
    nothing = model.z_embedder.uncondition.expand(4, 1, 12)
    expected = torch.stack(
        [
            (model(oracle.add_noise(actions, noise[:, r], time[:, r]), time[:, r], given) - noise[:, r]).square()
            for r, given in enumerate((z, nothing))
        ],
        dim=1,
    )
    draws = {"noise": noise, "time": time, "drop": drop}
    torch.testing.assert_close(model.squared_errors(actions, z, **draws), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.loss(actions, z, **draws), expected.mean())


@torch.no_grad()
def test_draws_come_from_the_generator_and_repeat(inputs: tuple[Tensor, ...]) -> None:
    actions, _, z = inputs
    torch.manual_seed(0)
    model = ActionModel(CONFIG)  # predicts nothing, so errors are the squared noise
    assert model.squared_errors(actions, z).shape == (4, 8, 5, 3)  # documented number of draws
    once = ActionModel(replace(CONFIG, repeated_diffusion_steps=4)).squared_errors(actions, z)
    assert once.shape == (4, 4, 5, 3)
    first, second = (model.loss(actions, z, generator=torch.Generator().manual_seed(s)) for s in (5, 5))
    assert first == second
    assert first != model.loss(actions, z, generator=torch.Generator().manual_seed(6))
    errors = model.squared_errors(actions.repeat(100, 1, 1), z.repeat(100, 1, 1))
    assert abs(errors.mean() - 1) < 0.05
    assert not torch.allclose(errors[:, 0], errors[:, 1])  # no two draws share their noise


@torch.no_grad()
def test_a_tenth_of_the_draws_are_unconditional(model: ActionModel) -> None:
    actions, z = torch.zeros(500, 5, 3), torch.zeros(500, 1, 12)
    same = {"noise": torch.zeros(500, 8, 5, 3), "time": torch.full((500, 8), 50)}
    errors = model.squared_errors(actions, z, **same, generator=torch.Generator().manual_seed(0))
    given = model.squared_errors(actions, z, **same, drop=torch.zeros(500, 8, dtype=torch.bool))
    dropped = (errors - given).abs().amax(dim=(2, 3)) > 1e-5
    assert 0.08 < dropped.float().mean() < 0.12
    assert dropped.any(dim=1).float().mean() > 0.4  # drawn for each draw anew: 1 - 0.9^8 of the samples


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 1.5, 4.0])
def test_sampling_is_that_of_diffusers_with_guidance(
    model: ActionModel, inputs: tuple[Tensor, ...], guidance: float
) -> None:
    noise, _, z = inputs
    nothing = model.z_embedder.uncondition.expand(4, 1, 12)
    oracle, x = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=False, set_alpha_to_one=True
    ), noise  # fmt: skip
    oracle.set_timesteps(10)
    assert oracle.timesteps.tolist() == list(range(90, -1, -10))
    for time in oracle.timesteps:
        t = time.expand(4)
        given, without = model(x, t, z), model(x, t, nothing)
        eps = given if guidance == 1 else without + guidance * (given - without)
        x = oracle.step(eps, int(time), x, eta=0.0).prev_sample
    found = model.sample(z, noise, 10, guidance)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)
    if guidance == 1:
        torch.testing.assert_close(model.sample(z, noise, 10, 0.5), found, atol=0, rtol=0)  # up to 1 it is off
    if guidance == 1.5:
        torch.testing.assert_close(model.sample(z, noise), found, atol=0, rtol=0)  # the published settings


@torch.no_grad()
def test_a_chunk_does_not_depend_on_who_shares_its_batch(model: ActionModel, inputs: tuple[Tensor, ...]) -> None:
    noise, _, z = inputs
    together = model.sample(z, noise)
    for row in range(4):
        alone = model.sample(z[row : row + 1], noise[row : row + 1])[0]
        torch.testing.assert_close(alone, together[row], atol=1e-4, rtol=1e-4)


def test_ancestral_sampling_takes_its_noise_from_the_generator(model: ActionModel, inputs: tuple[Tensor, ...]) -> None:
    noise, _, z = inputs
    first, again, other = (
        model.sample(z, noise, None, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_weights_in_bfloat16_take_and_return_float32_actions(inputs: tuple[Tensor, ...]) -> None:
    noise, _, z = inputs
    torch.manual_seed(0)
    model = ActionModel(CONFIG).bfloat16()
    assert model.sample(z, noise).dtype == torch.float32
    assert model.loss(noise, z).dtype == torch.float32


def test_what_does_not_fit_is_refused(model: ActionModel, inputs: tuple[Tensor, ...]) -> None:
    x, t, z = inputs
    for wrong in ((x[:, :4], z), (x, z[:, 0]), (x[:2], z), (x, z[..., :11])):
        with pytest.raises(ValueError, match=r"expected \[B, 5, 3\] and \[B, 1, 12\]"):
            model(wrong[0], t, wrong[1])
        with pytest.raises(ValueError, match="do not fit"):
            model.sample(wrong[1], wrong[0])
    with pytest.raises(ValueError, match="does not split into 5 heads"):
        ActionModelConfig(heads=5)
    with pytest.raises(ValueError, match="unconditional_dropout is 1"):
        ActionModelConfig(unconditional_dropout=1)
    with pytest.raises(ValueError, match="repeated_diffusion_steps is 0"):
        ActionModelConfig(repeated_diffusion_steps=0)

import math
from collections import Counter
from collections.abc import Callable

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nn.time_tables import Rule, time_table
from visuomotor.heads.diffusion import DiffusionHead
from visuomotor.heads.diffusion_config import SCALEDP_SIZES, ScaleDPConfig
from visuomotor.heads.scaledp import ScaleDP

Make = Callable[..., ScaleDP]


def literal(
    state: dict[str, Tensor],
    x: Tensor,
    t: Tensor,
    cond: Tensor,
    robot: Tensor,
    heads: int,
    dtype: torch.dtype = torch.float32,
    rule: Rule = "scaledp",
) -> Tensor:
    """The specification line by line, from published names alone; `dtype` and `rule` make the table of times."""

    def linear(name: str, v: Tensor) -> Tensor:
        return F.linear(v, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(v: Tensor) -> Tensor:
        return (v - v.mean(-1, keepdim=True)) / (v.var(-1, keepdim=True, unbiased=False) + 1e-6).sqrt()

    if "norm_after_pool.weight" in state:
        pooled = cond.mean(1)
        cond = F.layer_norm(pooled, pooled.shape[-1:], state["norm_after_pool.weight"], state["norm_after_pool.bias"])
    else:
        cond = cond.squeeze(1)
    g = linear("combine.4", linear("combine.2", linear("combine.0", torch.cat([cond, robot], 1)).relu()).relu())
    code = time_table(t.tolist(), state["t_embedder.mlp.0.weight"].shape[1], dtype, rule).float()
    c = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", code))) + linear("cond_obs_emb", g)
    h = linear("x_embedder", x) + state["pos_embed"]
    for i in range(sum(name.endswith("attn.proj.bias") for name in state)):
        block = f"blocks.{i}."
        s1, k1, g1, s2, k2, g2 = linear(block + "adaLN_modulation.1", F.silu(c))[:, None].chunk(6, -1)
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in linear(block + "attn.qkv", norm(h) * (1 + k1) + s1).chunk(3, -1)
        )
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        h = h + g1 * linear(block + "attn.proj", (weights @ v).transpose(1, 2).flatten(2))
        inner = F.gelu(linear(block + "mlp.fc1", norm(h) * (1 + k2) + s2), approximate="tanh")
        h = h + g2 * linear(block + "mlp.fc2", inner)
    s, k = linear("final_layer.adaLN_modulation.1", F.silu(c))[:, None].chunk(2, -1)
    return linear("final_layer.linear", norm(h) * (1 + k) + s)


@pytest.mark.parametrize(("size", "parameters"), [("L", 462_632_462), ("H", 955_861_518)])
def test_published_sizes(size: str, parameters: int) -> None:
    with torch.device("meta"):
        head = ScaleDP(ScaleDPConfig(**SCALEDP_SIZES[size], action_dim=14, state_dim=14, horizon=50, cond_dim=1536))
    assert sum(p.numel() for p in head.parameters()) == parameters
    assert len(head.state_dict()) == 10 * head.config.depth + 19
    assert sum(p.numel() for p in head.blocks[0].parameters()) == {"L": 18_889_728, "H": 29_510_400}[size]


def test_tensors_have_the_published_names(make_scaledp: Make) -> None:
    linears = [f"combine.{i}" for i in (0, 2, 4)] + ["t_embedder.mlp.0", "t_embedder.mlp.2", "cond_obs_emb"]
    linears += ["x_embedder", "final_layer.adaLN_modulation.1", "final_layer.linear"]
    inner = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
    linears += [f"blocks.{i}.{name}" for i in range(2) for name in inner]
    expected = {f"{name}.{kind}" for name in linears for kind in ("weight", "bias")} | {"pos_embed"}
    assert set(make_scaledp().state_dict()) == expected
    pooled = set(make_scaledp(pooled=True).state_dict())
    assert pooled - expected == {"norm_after_pool.weight", "norm_after_pool.bias"}


@pytest.mark.parametrize("pooled", [False, True])
def test_forward_is_the_specification(make_scaledp: Make, make_inputs: Callable, pooled: bool) -> None:
    head = make_scaledp(pooled=pooled)
    x, t, cond, state = make_inputs(head, tokens=5 if pooled else 1).all()
    expected = literal(head.state_dict(), x, t, cond, state, heads=2)
    assert expected.std() > 0.1
    torch.testing.assert_close(head(x, t, cond, state), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head(x, 7, cond, state), head(x, torch.full_like(t, 7), cond, state))


def test_actions_see_each_other_both_ways(make_scaledp: Make, make_inputs: Callable) -> None:
    head = make_scaledp()
    x, t, cond, state = make_inputs(head).all()
    jacobian = torch.autograd.functional.jacobian(lambda v: head(v, t, cond, state)[0, :, 0], x)
    assert (jacobian[:, 0].abs().amax(-1) > 0).all()


def test_sampling_is_that_of_diffusers(make_scaledp: Make, make_inputs: Callable) -> None:
    head = make_scaledp()
    x, _, cond, state = make_inputs(head).all()
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=True, set_alpha_to_one=True,
        steps_offset=0, prediction_type="epsilon",
    )  # fmt: skip
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == list(range(90, -1, -10))
    expected = x
    for t in scheduler.timesteps:
        with torch.no_grad():
            noise = head(expected, t.expand(len(x)), cond, state)
        expected = scheduler.step(noise, int(t), expected, eta=0.0).prev_sample
    found = head.sample(cond, state, x, 10)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(head.sample(cond, state, x), found, atol=0, rtol=0)
    assert found.abs().max() <= 1
    assert (found.abs() < 0.99).any()
    with pytest.raises(ValueError, match="1 to 100 steps"):
        head.sample(cond, state, x, 0)


def test_steps_prepared_together_equal_steps_one_by_one(
    make_scaledp: Make, make_inputs: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = make_scaledp()
    x, _, cond, state = make_inputs(head).all()

    def calls() -> tuple[Tensor, Counter]:
        count: Counter = Counter()
        hooks = [
            module.register_forward_hook(lambda *_, name=name: count.update([name]))
            for name, module in head.named_modules()
            if isinstance(module, nn.Linear)
        ]
        found = head.sample(cond, state, x, 7)
        for hook in hooks:
            hook.remove()
        return found, count

    together, few = calls()
    monkeypatch.setattr(ScaleDP, "predictor", DiffusionHead.predictor)
    apart, many = calls()
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=1e-5)
    assert set(few) == set(many)
    assert set(many.values()) == {7}
    at_every_step = ("attn.", "mlp.fc", "x_embedder", "final_layer.linear")
    for name, count in few.items():
        assert count == (7 if any(part in name for part in at_every_step) else 1), name


def test_a_fresh_head_of_either_initialisation() -> None:
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    dit = ScaleDP(ScaleDPConfig(width=64, depth=2, cond_dim=32))
    published = ScaleDP(ScaleDPConfig(width=64, depth=2, cond_dim=32, initialisation="published"))
    torch.random.set_rng_state(generator_state)
    zero = {name for name, p in dit.named_parameters() if not p.any()}
    biases = {name for name, _ in dit.named_parameters() if name.endswith("bias")}
    closed = {name for name, _ in dit.named_parameters() if "adaLN" in name or "final_layer.linear" in name}
    assert zero == biases | closed
    spread = {name: p.std().item() for name, p in dit.named_parameters()}
    for name in ("pos_embed", "cond_obs_emb.weight", "t_embedder.mlp.0.weight", "t_embedder.mlp.2.weight"):
        assert spread[name] == pytest.approx(0.02, rel=0.1), name
    assert spread["blocks.0.attn.qkv.weight"] == pytest.approx(math.sqrt(2 / (64 + 192)), rel=0.1)
    assert {name for name, p in published.named_parameters() if not p.any()} == biases | {"pos_embed"}
    for name, p in published.named_parameters():
        assert name in biases | {"pos_embed"} or p.std().item() == pytest.approx(0.02, rel=0.1), name


def test_rounded_times_matter(make_scaledp: Make, make_inputs: Callable) -> None:
    exact, rounded = make_scaledp(time_size=64), make_scaledp(time_size=64, time_table="bfloat16")
    x, _, cond, state = make_inputs(exact).all()
    t = torch.tensor([0, 90, 73])
    moved = (exact(x, t, cond, state) - rounded(x, t, cond, state)).abs().amax((1, 2))
    assert moved[0] == 0
    assert (moved[1:] > 1e-4).all()


def test_blocks_computed_again_give_the_same_gradients(make_scaledp: Make, make_inputs: Callable) -> None:
    gradients = []
    for again in (False, True):
        head = make_scaledp()
        head.checkpoint = again
        head(*make_inputs(head).all()).square().sum().backward()
        gradients.append([p.grad for p in head.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], atol=0, rtol=0)


def test_bfloat16_weights_take_float32_inputs(make_scaledp: Make, make_inputs: Callable) -> None:
    head = make_scaledp()
    inputs = make_inputs(head)
    exact = head(*inputs.all())
    assert head.bfloat16()(*inputs.all()).dtype == torch.bfloat16
    torch.testing.assert_close(head(*inputs.all()).float(), exact, atol=0.1, rtol=0.1)
    assert head.sample(inputs.cond, inputs.state, inputs.x).dtype == torch.float32


def test_wrong_shapes_are_refused(make_scaledp: Make, make_inputs: Callable) -> None:
    head = make_scaledp()
    x, t, cond, state = make_inputs(head).all()
    for wrong in ((x[..., :2], t, cond, state), (x, t[:2], cond, state), (x, t, cond[:, 0], state), (x, t, cond, x)):
        with pytest.raises(ValueError, match=r"expected \[B, T, 3\]"):
            head(*wrong)
    with pytest.raises(ValueError, match="Chunks have 3 actions"):
        head(x[:, :3], t, cond, state)
    with pytest.raises(ValueError, match="has 2 tokens, but this head takes 1"):
        head(x, t, cond.expand(-1, 2, -1), state)

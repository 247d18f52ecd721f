import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.heads.test_scaledp import literal
from tests.nn.time_tables import Rule
from visuomotor.models.dexvla import ScaleDP, UNet, scaledp_from_published, transplant_stage1, unet_from_published


@pytest.mark.parametrize("pooled", [False, True])
def test_a_scaledp_is_read_from_its_shapes(make_scaledp: Callable, make_inputs: Callable, pooled: bool) -> None:
    head = make_scaledp(depth=3, mlp_ratio=2.5, pooled=pooled, time_table="bfloat16")
    found = scaledp_from_published(head.state_dict(), num_heads=2)
    inputs = make_inputs(head, tokens=3 if pooled else 1)
    torch.testing.assert_close(found(*inputs.all()), head(*inputs.all()), atol=0, rtol=0)
    given = (inputs.cond, inputs.state, inputs.x)
    torch.testing.assert_close(found.sample(*given), head.sample(*given), atol=0, rtol=0)
    assert found.config.mean_over == "all"
    exact = scaledp_from_published(head.state_dict(), 2, time_table="float32")
    assert (exact(*inputs.all()) - found(*inputs.all())).abs().max() > 1e-4
    assert next(found.parameters()).requires_grad


def ddim(predict: Callable[[Tensor, int], Tensor], noise: Tensor) -> Tensor:
    """Ten steps of the published sampler, t = 90, 80, ..., 0 of 100; predicted actions are clamped to [-1, 1]."""

    def level(t: int) -> float:
        return math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2

    signal = [1.0]  # its share of the variance after each of the 100 noise steps
    for t in range(100):
        signal.append(signal[-1] * (1 - min(1 - level(t + 1) / level(t), 0.999)))
    x = noise
    for t in range(90, -1, -10):
        now, then = signal[t + 1], signal[max(t - 9, 0)]
        error = predict(x, t)
        actions = ((x - math.sqrt(1 - now) * error) / math.sqrt(now)).clamp(-1, 1)
        x = math.sqrt(then) * actions + math.sqrt(1 - then) * error
    return x


@pytest.mark.parametrize("pooled", [False, True])
def test_a_published_scaledp_samples_as_the_released_code(
    make_scaledp: Callable, make_inputs: Callable, pooled: bool
) -> None:
    """Against a forward pass written from the specification; the table of times is made as released, in bfloat16."""
    head = make_scaledp(time_size=256, pooled=pooled)
    inputs, weights = make_inputs(head, tokens=3 if pooled else 1), head.state_dict()

    def sampled(rule: Rule) -> Tensor:
        def predict(x: Tensor, t: int) -> Tensor:
            times = torch.full((len(x),), t)
            return literal(weights, x, times, inputs.cond, inputs.state, 2, torch.bfloat16, rule)

        return ddim(predict, inputs.x)

    published = scaledp_from_published(weights, num_heads=2)
    for t in (0, 10, 73, 90, 99):
        times = torch.full((len(inputs.x),), t)
        expected = literal(weights, inputs.x, times, inputs.cond, inputs.state, 2, torch.bfloat16)
        error = published(inputs.x, times, inputs.cond, inputs.state)
        torch.testing.assert_close(error, expected, atol=1e-5, rtol=0)
    actions = published.sample(inputs.cond, inputs.state, inputs.x)
    torch.testing.assert_close(actions, sampled("scaledp"), atol=1e-4, rtol=0)
    # Exact exponents, a rule that no released code follows, would not pass the line above.
    assert (actions - sampled("former")).abs().max() > 1e-2


def test_a_unet_is_read_from_its_shapes(make_unet: Callable, make_inputs: Callable) -> None:
    head = make_unet(channels=(8, 24), kernel=5, time_table="bfloat16")
    found = unet_from_published(head.state_dict(), 4, horizon=8)
    inputs = make_inputs(head)
    torch.testing.assert_close(found(*inputs.all()), head(*inputs.all()), atol=0, rtol=0)
    assert found.config.channels == (8, 24)


@pytest.mark.parametrize("kind", ["scaledp", "unet"])
def test_what_does_not_fit_is_named(kind: str, make_scaledp: Callable, make_unet: Callable) -> None:
    head: ScaleDP | UNet = make_scaledp() if kind == "scaledp" else make_unet()

    def read(state: dict[str, Tensor]) -> None:
        if kind == "scaledp":
            scaledp_from_published(state, num_heads=2)
        else:
            unet_from_published(state, num_groups=4)

    last = "final_layer.linear.bias" if kind == "scaledp" else "final_conv.1.bias"
    state = dict(head.state_dict())
    with pytest.raises(ValueError, match=r"1 unexpected \(extra\)"):
        read({**state, "extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=rf"1 mismatched \({last}: \[7\] against \[3\]\)"):
        read({**state, last: torch.zeros(7)})
    with pytest.raises(ValueError, match=rf"1 missing \({last}\)"):
        read({name: tensor for name, tensor in state.items() if name != last})
    with pytest.raises(ValueError, match="Not a published"):
        read({})


def stage1(head: ScaleDP) -> dict[str, Tensor]:
    """What the released file holds of a head, with encoders as a Stage-1 policy has them."""
    absent = ("combine.", "cond_obs_emb.", "x_embedder.", "final_layer.linear.")
    trunk = {name: tensor + 1 for name, tensor in head.state_dict().items() if not name.startswith(absent)}
    file = {f"policy.noise_pred_net.{name}": tensor for name, tensor in trunk.items()}
    file["policy.obs_encoder.conv1.weight"] = torch.zeros(2)
    file["policy.language.cond_obs_emb.weight"] = torch.zeros(2)  # matches both rules of what is left out
    file["policy.noise_pred_net.cond_obs_emb.weight"] = torch.zeros(99)  # would not fit, but is left out
    return file


def test_the_released_trunk_is_transplanted(make_scaledp: Callable) -> None:
    head, source = make_scaledp(depth=32), make_scaledp(depth=32)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    report = transplant_stage1(stage1(source), head)
    assert (len(report.loaded), len(report.loaded) + len(report.missing)) == (327, 339)
    assert len(report.ignored) == 3
    assert not report.unexpected
    for name, tensor in head.state_dict().items():
        expected = source.state_dict()[name] + 1 if name in report.loaded else before[name]
        torch.testing.assert_close(tensor, expected, atol=0, rtol=0)


def test_a_transplant_that_does_not_fit_changes_nothing(make_scaledp: Callable) -> None:
    head, longer = make_scaledp(), make_scaledp(horizon=6)
    before = {name: tensor.clone() for name, tensor in head.state_dict().items()}
    with pytest.raises(ValueError, match=r"pos_embed: \[1, 6, 16\] against \[1, 4, 16\]"):
        transplant_stage1(stage1(longer), head)
    with pytest.raises(ValueError, match="0 tensors loaded"):
        transplant_stage1({"nets": torch.zeros(1)}, head)
    torch.testing.assert_close(dict(head.state_dict()), before, atol=0, rtol=0)


def test_what_a_stage1_policy_has_more_is_reported(make_scaledp: Callable) -> None:
    head = make_scaledp()
    report = transplant_stage1({**stage1(head), "policy.noise_pred_net.extra": torch.zeros(1)}, head)
    assert report.unexpected == ("extra",)

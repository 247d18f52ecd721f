from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from visuomotor.heads.robots import embodiment_state, plain_state
from visuomotor.heads.scaledp import ScaleDP
from visuomotor.models.dexvla import copy_into

Make = Callable[..., ScaleDP]
NAMES, ACTIONS, STATES = ("arm", "hand", "bimanual"), (3, 2, 5), (2, 0, 4)


def single(make_scaledp: Make, head: ScaleDP, robot: int) -> ScaleDP:
    """One robot's head by itself."""
    alone = make_scaledp(action_dim=ACTIONS[robot], state_dim=STATES[robot])
    alone.load_state_dict(plain_state(head.state_dict(), NAMES[robot]))
    return alone


def test_each_row_of_a_mixed_batch_gets_what_its_robot_alone_would(
    make_scaledp: Make, make_robots: Make, make_inputs: Callable
) -> None:
    head, embodiment = make_robots(), torch.tensor([2, 0, 1, 0, 2])
    x, t, cond, state = make_inputs(head, rows=5).all()
    found, sampled = head(x, t, cond, state, embodiment), head.sample(cond, state, x, embodiment=embodiment)
    for row, robot in enumerate(embodiment.tolist()):
        alone, one = single(make_scaledp, head, robot), slice(row, row + 1)
        width, states = ACTIONS[robot], STATES[robot]
        expected = alone(x[one, :, :width], t[one], cond[one], state[one, :states])
        torch.testing.assert_close(found[one, :, :width], expected, atol=1e-5, rtol=1e-5)
        expected = alone.sample(cond[one], state[one, :states], x[one, :, :width])
        torch.testing.assert_close(sampled[one, :, :width], expected, atol=1e-5, rtol=1e-5)
        assert not found[row, :, width:].any()
        assert not sampled[row, :, width:].any()


def gradients(head: ScaleDP, rows: list[int], embodiment: Tensor, make_inputs: Callable) -> dict[str, Tensor | None]:
    head.zero_grad()
    inputs, noise = make_inputs(head, rows=len(embodiment)), make_inputs(head, rows=len(embodiment), seed=2).x
    term = head.loss(
        inputs.x[rows], torch.ones_like(inputs.x[rows], dtype=torch.bool), inputs.cond[rows], inputs.state[rows],
        embodiment=embodiment[rows], noise=noise[rows, None], time=inputs.t[rows, None],
    )  # fmt: skip
    term.sum.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in head.named_parameters()}


def test_no_robot_teaches_the_layers_of_another(make_robots: Make, make_inputs: Callable) -> None:
    head, embodiment = make_robots(), torch.tensor([2, 0, 0, 2])
    mixed = gradients(head, [0, 1, 2, 3], embodiment, make_inputs)
    for name, gradient in mixed.items():
        assert (gradient is None) == name.startswith("embodiments.hand."), name
    for robot, rows in (("arm", [1, 2]), ("bimanual", [0, 3])):
        alone = gradients(head, rows, embodiment, make_inputs)
        own = [name for name in mixed if name.startswith(f"embodiments.{robot}.")]
        assert len(own) == 10
        for name in own:
            torch.testing.assert_close(mixed[name], alone[name], atol=1e-4, rtol=1e-4)
    assert (mixed["cond_obs_emb.weight"] - alone["cond_obs_emb.weight"]).abs().max() > 1e-3  # the trunk learns of both


@pytest.mark.parametrize(("mean_over", "count"), [("valid", 4 * (5 + 3) + 1 * 3), ("all", 4 * (5 + 3 + 3))])
def test_padded_columns_count_nowhere(make_robots: Make, make_inputs: Callable, mean_over: str, count: int) -> None:
    head, embodiment = make_robots(mean_over=mean_over), torch.tensor([2, 0, 0])
    inputs = make_inputs(head)
    valid = torch.ones_like(inputs.x, dtype=torch.bool)
    valid[2, 1:] = False
    given = {"embodiment": embodiment, "noise": torch.randn(3, 1, 4, 5), "time": inputs.t[:, None]}
    term = head.loss(inputs.x, valid, inputs.cond, inputs.state, **given)
    assert term.count == count
    beyond = inputs.x.clone()
    beyond[1:, :, 3:] = 1e3
    assert head.loss(beyond, valid, inputs.cond, inputs.state, **given).sum == term.sum


def test_a_single_embodiment_has_the_plain_names(make_scaledp: Make, make_inputs: Callable) -> None:
    plain = make_scaledp()
    named = make_scaledp(embodiments=("arm",), action_dims=(3,), state_dims=(2,))
    inputs = make_inputs(plain)
    for source, target in ((plain, named), (named, plain)):
        with torch.no_grad():
            source.x_embedder.weight.add_(1)
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(target(*inputs.all()), source(*inputs.all()), atol=0, rtol=0)
    own = torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(named(*inputs.all(), own), plain(*inputs.all()), atol=0, rtol=0)


def test_a_robots_checkpoint_goes_into_a_head_for_several(
    make_scaledp: Make, make_robots: Make, make_inputs: Callable
) -> None:
    head, alone = make_robots(), make_scaledp()
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.mul_(1.5)
    report = copy_into(head, embodiment_state(alone.state_dict(), "arm"))
    assert len(report.loaded) == len(alone.state_dict())
    assert not report.unexpected
    assert {name.split(".")[1] for name in report.missing} == {"hand", "bimanual"}
    back = plain_state(head.state_dict(), "arm")
    assert set(back) == set(alone.state_dict())
    torch.testing.assert_close(back, dict(alone.state_dict()), atol=0, rtol=0)
    with pytest.raises(ValueError, match=r"no embodiment 'leg'.*Known: arm, bimanual, hand"):
        plain_state(head.state_dict(), "leg")


def test_rows_of_no_robot_are_refused(make_robots: Make, make_inputs: Callable) -> None:
    head = make_robots()
    inputs = make_inputs(head)
    for embodiment, message in (
        (None, "say which"),
        (torch.tensor([0]), "say which"),
        (torch.tensor([0, 3, 1]), "0 to 2"),
    ):
        with pytest.raises(ValueError, match=message):
            head(*inputs.all(), embodiment)
        with pytest.raises(ValueError, match=message):
            head.sample(inputs.cond, inputs.state, inputs.x, embodiment=embodiment)

"""Adapters on a real (tiny) DM0: what they change, what learns, what a checkpoint holds."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.dm0.conftest import TINY, make_batch  # noqa: F401 (a fixture)
from tests.training.fakes import install, make_run, stage
from visuomotor.contract import Batch, Run
from visuomotor.models import make_config
from visuomotor.models.dm0 import DM0
from visuomotor.policy import load_policy
from visuomotor.training.lora import adapter_parameters, add_adapters, merge_adapters, merged
from visuomotor.training.optimiser import make_optimiser
from visuomotor.training.stage import check_stage
from visuomotor.training.trainer import train

LORA = stage(lora=2, trains={"llm": 1e-2, "action_io": 1e-2})


def make_model() -> DM0:
    torch.manual_seed(0)
    return DM0(make_config("dm0", "nano", **TINY))


def sampled(model: DM0, batch: Batch) -> torch.Tensor:
    return model.sample(batch, noise=torch.ones(batch.size, 1, 4, 3), steps=2).actions


def scramble(model: DM0) -> None:
    """Adapters as they are in the middle of training: B is not zero."""
    adapters = adapter_parameters(model)
    torch.manual_seed(3)
    for parameter in model.parameters():
        if id(parameter) in adapters:
            torch.nn.init.normal_(parameter, std=0.2)


def test_at_the_start_nothing_changes(make_batch: Callable[..., Batch]) -> None:  # noqa: F811
    plain, adapted = make_model(), make_model()
    torch.manual_seed(5)
    add_adapters(adapted, replace(LORA, lora_parts=("llm", "expert")))
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(5))  # nobody else's draws move
    assert torch.equal(sampled(adapted, make_batch()), sampled(plain, make_batch()))
    per_layer, layers = 7, 3
    assert len(adapter_parameters(adapted)) == 2 * layers * per_layer * 2


def test_only_adapters_and_the_parts_that_train_get_gradients(make_batch: Callable[..., Batch]) -> None:  # noqa: F811
    model = make_model()
    add_adapters(model, LORA)
    scramble(model)
    optimiser = make_optimiser(model, LORA)
    model.loss(make_batch(), generator=torch.Generator().manual_seed(0)).total.backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    adapters = {name for name, p in model.named_parameters() if id(p) in adapter_parameters(model)}
    action_io = {id(p) for p in model.parts()["action_io"]}
    assert learning == adapters | {name for name, p in model.named_parameters() if id(p) in action_io}
    assert len(adapters) == 3 * 7 * 2
    held = [p for group in optimiser.param_groups for p in group["params"]]
    assert {id(p) for p in held} == adapter_parameters(model) | action_io


def test_merged_equals_unmerged_and_leaves_no_trace(make_batch: Callable[..., Batch]) -> None:  # noqa: F811
    model, batch = make_model(), make_batch()
    names, before = list(model.state_dict()), sampled(model, batch)
    add_adapters(model, replace(LORA, lora_parts=("llm", "expert")))
    scramble(model)
    bits = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    unmerged = sampled(model, batch)
    assert (unmerged - before).abs().max() > 1e-3
    with merged(model):
        assert list(model.state_dict()) == names
        torch.testing.assert_close(sampled(model, batch), unmerged, atol=1e-6, rtol=1e-5)
    assert all(torch.equal(tensor, bits[name]) for name, tensor in model.state_dict().items())
    merge_adapters(model)
    assert list(model.state_dict()) == names
    torch.testing.assert_close(sampled(model, batch), unmerged, atol=1e-6, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        add_adapters(model, LORA)  # a later stage may adapt again


def test_scale_and_dropout(make_batch: Callable[..., Batch]) -> None:  # noqa: F811
    """The adapters' part of the weights is alpha / rank times their product, and dropout is of training alone."""
    weights = []
    for alpha in (2, 8):
        model = make_model().train()
        name = "backbone.llm.layers.0.self_attn.q_proj.weight"
        before = model.get_parameter(name).detach().clone()
        add_adapters(model, replace(LORA, lora_alpha=alpha, lora_dropout=0.5))
        scramble(model)
        batch = make_batch()
        losses = [model.loss(batch, generator=torch.Generator().manual_seed(0)).total for _ in range(2)]
        assert losses[0] != losses[1]
        assert torch.equal(sampled(model.eval(), batch), sampled(model, batch))
        merge_adapters(model)
        weights.append(model.get_parameter(name) - before)
    torch.testing.assert_close(weights[1], 4 * weights[0], atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"lora_dropout 1.0"):
        check_stage("adapt", replace(LORA, lora_dropout=1.0))


def test_contradictions_are_refused() -> None:
    for parts in (("vision",), ("action_io",), ("nothing",)):
        with pytest.raises(ValueError, match=f"adapts '{parts[0]}', which has no matrices"):
            add_adapters(make_model(), replace(LORA, lora_parts=parts))
    model = make_model()
    add_adapters(model, LORA)
    with pytest.raises(ValueError, match="gives that part no learning rate"):
        make_optimiser(model, replace(LORA, trains={"expert": 1e-3}))


# Whole runs -------------------------------------------------------------------------------------------------------


def lora_run() -> Run:
    """A plain stage, then adapters with averaging, then a plain one again."""
    adapted = stage("adapt", steps=4, lora=2, trains={"llm": 1e-2, "expert": 1e-3}, ema=0.5, checkpoint_every=1)
    run = make_run(stage("plain", steps=1), adapted, stage("after", steps=1, trains={"expert": 1e-3}))
    sizes = {**TINY, "horizon": 4, "action_dim": 8, "state_dim": 8, "llm.vocab_size": 640, "vision.image_size": 32}
    return replace(run, model="dm0", config=make_config("dm0", "nano", **sizes))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        yield train(lora_run(), tmp_path_factory.mktemp("whole"), threads=1)


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [1, 3, 5])  # before the adapters' first step, amid, at their end
def test_killed_and_resumed_equals_uninterrupted(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    install(monkeypatch)

    def strike(progress: object) -> None:
        if progress.step == step:  # type: ignore[attr-defined]
            raise Killed

    with pytest.raises(Killed):
        train(lora_run(), tmp_path, progress=strike, threads=1)
    last = train(lora_run(), tmp_path, resume=True, threads=1)
    left, right = load_file(whole / "model.safetensors"), load_file(last / "model.safetensors")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_stopped_before_its_first_step_a_stage_starts_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    run = lora_run()
    alone = replace(run, stages={"adapt": run.stages["adapt"]})
    first = train(alone, tmp_path / "a", stop_after_seconds=0.0, threads=1)
    assert first.name == "step-000000"
    resumed, straight = train(alone, tmp_path / "a", resume=True, threads=1), train(alone, tmp_path / "b", threads=1)
    left, right = load_file(resumed / "model.safetensors"), load_file(straight / "model.safetensors")
    assert all(torch.equal(left[name], right[name]) for name in right)


def test_checkpoints_are_whole_and_need_no_peft(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)  # importing it would fail
    folders = sorted(whole.parent.iterdir())
    policies = [load_policy(folder) for folder in folders]
    assert all(list(p.model.state_dict()) == list(policies[0].model.state_dict()) for p in policies)
    before, after = (load_file(folder / "model.safetensors") for folder in (folders[0], folders[-1]))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    llm = {name for name in changed if name.startswith("model.llm.")}
    assert llm == {n for n in before if n.startswith("model.llm.layers.") and n.endswith("_proj.weight")}

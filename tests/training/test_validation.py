import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from tests.data.fakes import FakeDataset
from tests.training.fakes import FakeConfig, FakeModel, make_run, stage
from visuomotor.contract import Batch, Mixture, Source, Stage
from visuomotor.data.loader import Loader
from visuomotor.data.processor import Processor
from visuomotor.models.fit import processor_config
from visuomotor.training.assembly import DataSource, validation_batches
from visuomotor.training.step import split
from visuomotor.training.validation import validate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def processor() -> Processor:
    return Processor.build(processor_config(make_run(stage())), [FakeDataset()], ("words",))


@pytest.fixture(scope="module")
def batches(processor: Processor) -> list[Batch]:
    mixture = Mixture(sources=(Source(name="robot"),))
    loader = Loader(mixture, processor, batch_size=6, seed=0, datasets={"robot": FakeDataset()}, workers=0)
    return [next(loader), next(loader)]


def test_action_error_is_the_mean_over_valid_entries(processor: Processor, batches: list[Batch]) -> None:
    model = FakeModel(FakeConfig())
    model.train()
    found = validate(model, batches, seed=0, device=CPU, autocast=nullcontext(), processor=processor)
    assert model.training
    whole, error = torch.cat([b.action_valid for b in batches]), []
    for batch in batches:
        error.append((model.actions(batch) - batch.actions).abs())
    every = torch.cat(error)
    assert found["action_error"]["all"] == pytest.approx(every[whole].mean().item())
    for step in (1, 2, 4):
        assert found["action_error"][str(step)] == pytest.approx(every[:, step - 1][whole[:, step - 1]].mean().item())
    assert found["samples"] == 12


def test_robot_error_is_in_robot_units(processor: Processor, batches: list[Batch]) -> None:
    model = FakeModel(FakeConfig())
    found = validate(model, batches, seed=0, device=CPU, autocast=nullcontext(), processor=processor)
    ours, theirs = [], []
    for batch in batches:
        for i in range(batch.size):
            keep = batch.action_valid[i].any(-1).numpy()
            state = torch.zeros(6).numpy()
            ours.append(processor.robot_actions(model.actions(batch)[i].detach().numpy(), state)[keep])
            theirs.append(processor.robot_actions(batch.actions[i].numpy(), state)[keep])
    difference = np.abs(np.concatenate(ours) - np.concatenate(theirs))
    for name, dims in processor.embodiments[0].action_slices().items():
        assert found["robot_error"][name] == pytest.approx(difference[:, dims].mean().item(), rel=1e-4)


def test_validation_repeats_exactly_and_ignores_samples_without_actions(batches: list[Batch]) -> None:
    model = FakeModel(FakeConfig())
    first, again = (validate(model, batches, seed=3, device=CPU, autocast=nullcontext()) for _ in range(2))
    assert {**first, "seconds": 0} == {**again, "seconds": 0}
    empty = [dataclasses.replace(b, action_valid=torch.zeros_like(b.action_valid)) for b in batches]
    assert "action_error" not in validate(model, empty, seed=3, device=CPU, autocast=nullcontext())


@pytest.mark.parametrize(("wanted", "objectives"), [(1, [True, False]), (3, [True, False, True])])
def test_every_source_is_validated(processor: Processor, wanted: int, objectives: list[bool]) -> None:
    sources = (Source(name="robot"), Source(name="questions", options={"objective": "grounding"}, weight=1e-6))
    mixture = Mixture(sources=sources, validation=0.3)
    stage = Stage(name="s", steps=1, mixture=mixture, batch_size=2, validate_every=1, validation_batches=wanted)
    data = DataSource(datasets={"robot": FakeDataset(), "questions": FakeDataset()}, processor=processor)
    found = validation_batches(stage, data)
    assert [b.action_valid is not None and bool(b.action_valid.any()) for b in found] == objectives
    assert [b.source.unique().tolist() for b in found] == [[0 if robot else 1] for robot in objectives]


def test_losses_by_source_add_up_to_the_whole(batches: list[Batch]) -> None:
    apart = [dataclasses.replace(b, source=torch.full_like(b.source, i)) for i, b in enumerate(batches)]
    model = FakeModel(FakeConfig())
    found = validate(model, apart, seed=0, device=CPU, autocast=nullcontext(), sources=["a", "b"])
    assert set(found["source_loss"]) == {"a", "b"}
    counts = [int(b.text_loss.sum()) for b in batches]
    means = [found["source_loss"][name]["text"] for name in ("a", "b")]
    assert np.average(means, weights=counts) == pytest.approx(found["loss"]["text"], rel=1e-5)


def test_split_keeps_every_sample(batches: list[Batch]) -> None:
    pieces = split(batches[0], 3)
    assert [p.size for p in pieces] == [2, 2, 2]
    assert torch.equal(torch.cat([p.state for p in pieces]), batches[0].state)
    assert torch.equal(torch.cat([p.images["scene"] for p in pieces]), batches[0].images["scene"])

import math

import pytest
import torch

from tests.training.fakes import FakeConfig, FakeModel, stage
from visuomotor.training.optimiser import Schedule, learning_rates, make_optimiser, undecayed
from visuomotor.training.step import precision_context, seed_for

PARTS = FakeModel(FakeConfig()).parts()


def test_the_longest_pattern_counts_and_unnamed_parts_freeze() -> None:
    assert learning_rates({"*": 1e-3, "he*": 1e-4, "head": 1e-5}, PARTS)["head"] == 1e-5
    assert learning_rates({"head": 1e-3, "trunk": 0.0}, PARTS) == {"head": 1e-3}
    with pytest.raises(ValueError, match="No part trains"):
        learning_rates({"head": 0.0}, PARTS)


def test_groups_cover_the_trained_parameters_once() -> None:
    model = FakeModel(FakeConfig())
    optimiser = make_optimiser(model, stage(trains={"head": 1e-3, "norm": 1e-4}, weight_decay=0.1))
    grouped = [id(p) for g in optimiser.param_groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for name in ("head", "norm") for p in model.parts()[name])
    assert [p.requires_grad for p in (model.trunk.weight, model.embedding.weight, model.head.bias)] == [
        False,
        False,
        True,
    ]
    decays = {id(p): g["weight_decay"] for g in optimiser.param_groups for p in g["params"]}
    assert decays[id(model.head.weight)] == 0.1
    assert decays[id(model.head.bias)] == decays[id(model.norm.weight)] == 0.0


def test_vectors_embeddings_and_position_tables_do_not_decay() -> None:
    model = FakeModel(FakeConfig())
    model.register_parameter("positional_embedding", torch.nn.Parameter(torch.zeros(5, 3)))
    free = undecayed(model)
    assert id(model.embedding.weight) in free
    assert id(model.positional_embedding) in free
    assert id(model.trunk.weight) not in free


def test_schedule_is_warmup_then_cosine() -> None:
    schedule = Schedule(stage(steps=100, warmup=10, final_lr=0.1))
    factors = [schedule.factor(step) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    for step in range(10, 101):  # the textbook formula, from the end of the warm-up
        progress = (step - 9) / 91
        assert factors[step] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
    assert factors[-1] == pytest.approx(0.1)


def test_a_long_warmup_takes_a_fifth_of_the_stage() -> None:
    schedule = Schedule(stage(steps=10, warmup=1000))
    assert max(schedule.factor(step) for step in range(10)) == pytest.approx(1.0)


def test_time_anneals_as_steps_do() -> None:
    schedule = Schedule(stage(steps=10**9, minutes=1.0, warmup=1, final_lr=0.0))
    assert schedule.factor(0) == 1.0
    schedule.elapsed = 30.0
    assert schedule.factor(1) == pytest.approx(0.5, abs=1e-6)
    restored = Schedule(schedule.stage)
    restored.load_state_dict(schedule.state_dict())
    assert restored.factor(1) == schedule.factor(1)
    schedule.elapsed = 60.0
    assert schedule.done(2)
    assert schedule.factor(2) == pytest.approx(0.0, abs=1e-9)


def test_seeds_differ_by_every_part_of_the_key() -> None:
    keys = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 0)]
    assert len({seed_for(*key) for key in keys}) == len(keys)
    assert all(0 <= seed_for(*key) < 2**63 for key in keys)


def test_house_precision_multiplies_in_bfloat16_and_keeps_float32_weights() -> None:
    layer = torch.nn.Linear(3, 3)
    with precision_context("house", torch.device("cpu")):
        assert layer(torch.ones(1, 3)).dtype == torch.bfloat16
    with precision_context("float32", torch.device("cpu")):
        assert layer(torch.ones(1, 3)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32

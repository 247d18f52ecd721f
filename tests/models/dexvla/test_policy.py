"""A tiny DexVLA through the trainer and as a policy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.dexvla.conftest import TINY_VLA
from tests.training.fakes import MemoryDataset, install, make_run, stage
from visuomotor.contract import Run
from visuomotor.models.dexvla import DexVLA, DexVLAConfig
from visuomotor.policy import Policy, Session, load_policy
from visuomotor.training.lora import adapter_parameters, add_adapters
from visuomotor.training.metrics import read_metrics
from visuomotor.training.optimiser import make_optimiser
from visuomotor.training.trainer import train

PROCESSOR = {
    "prompt": "qwen2_vl", "levels": {"subtask": 1.0}, "horizon": 4, "action_width": 6, "state_width": 6,
    "action_normalization": "min_max", "state_normalization": "z_score", "vocab_size": 640,
}  # fmt: skip


def make(*stages: Any, **config: object) -> Run:
    sizes = {**TINY_VLA, "action_dim": 6, "state_dim": 6, "vocab_size": 640, **config}
    return replace(make_run(*stages), model="dexvla", config=DexVLAConfig(**sizes), processor=PROCESSOR)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Trained until it reasons in the data's words."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        stages = stage(steps=150, batch_size=8, trains={"*": 1e-2}, validate_every=150, validation_batches=1)
        out = tmp_path_factory.mktemp("dexvla")
        last = train(make(replace(stages, checkpoint_every=0, log_every=10)), out, threads=1)
        entries = read_metrics(out / "metrics.jsonl")
    assert entries[-2]["loss/text"] < 0.3 * entries[0]["loss/text"]
    assert entries[-1]["validation/action_error/all"] > 0
    return load_policy(last, think=("subtask",))


def test_it_reasons_and_then_acts(policy: Policy) -> None:
    data = MemoryDataset("data0")
    observations = [data.observation(row) for row in (3, 30)]
    chunks = policy.infer(observations, seeds=[1, 2])
    for chunk, row in zip(chunks, (3, 30), strict=True):
        assert chunk.text["subtask"] in {a.subtask for a in data.annotations(np.arange(40))}, row
        assert chunk.actions.shape == (4, 6)
    actions = np.concatenate([MemoryDataset(name).columns["action"] for name in ("data0", "data1")])
    low, high = actions.min(0), actions.max(0)
    assert all((chunk.actions >= low - 2e-4).all() and (chunk.actions <= high + 2e-4).all() for chunk in chunks)


def test_reasoning_is_reused_between_ticks(policy: Policy) -> None:
    """A chunk on text from the session is the one that would follow if the model wrote this text again."""
    observation = MemoryDataset("data0").observation(3)
    session = Session(seed=1)
    first = policy.infer([observation], [session], seeds=[5])[0]
    policy.think_every = 2
    try:
        again = policy.infer([observation], [session], seeds=[5])[0]
    finally:
        policy.think_every = 1
    assert again.text == first.text
    np.testing.assert_allclose(again.actions, first.actions, atol=1e-4)


def test_heads_for_each_robot_follow_the_data(tmp_path: Path) -> None:
    last = train(make(stage(steps=1), head_per_embodiment=True), tmp_path, threads=1)
    loaded = load_policy(last)
    assert loaded.model.config.embodiments == ("arm",)
    assert loaded.model.config.action_dims == (6,)


def test_adapters_stand_beside_the_vlm_and_the_rest_trains_in_full() -> None:
    frozen = dict.fromkeys(("embed", "merger"), 0.0)
    adapted = stage("adapt", lora=2, lora_parts=("llm", "vision"), trains={"*": 1e-2, **frozen})
    model = DexVLA(DexVLAConfig(**TINY_VLA))
    add_adapters(model, adapted)
    optimiser = make_optimiser(model, adapted)
    learning = {id(p) for group in optimiser.param_groups for p in group["params"]}
    parts, adapters = model.parts(), adapter_parameters(model)
    full = {id(p) for part in ("projectors", "film", "head") for p in parts[part]}
    assert learning == adapters | full
    assert len(adapters) == 2 * (2 * 7 + 2 * 4)  # of two language and two vision layers; the merger has none

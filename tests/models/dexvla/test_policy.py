"""A tiny DexVLA through the trainer and as a policy."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models.dexvla.conftest import TINY_VLA
from tests.training.fakes import MemoryDataset, install, make_run, stage
from visuomotor.contract import Run
from visuomotor.models import make_config
from visuomotor.models.dexvla import DexVLA
from visuomotor.policy import Policy, Session, load_policy
from visuomotor.training.lora import adapter_parameters, add_adapters
from visuomotor.training.metrics import read_metrics
from visuomotor.training.optimiser import make_optimiser
from visuomotor.training.trainer import train

DATA = MemoryDataset("data0")
PROCESSOR = {
    "levels": {"subtask": 1.0},
    "action_normalization": "min_max", "state_normalization": "z_score", "vocab_size": 640,
}  # fmt: skip


def make(*stages: Any, **config: object) -> Run:
    sizes = {**TINY_VLA, "head.action_dim": 6, "head.state_dim": 6, "llm.vocab_size": 640, **config}
    return replace(
        make_run(*stages), model="dexvla", config=make_config("dexvla", "nano", **sizes), processor=PROCESSOR
    )


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        options = {"steps": 30, "trains": {"*": 1e-2}, "validate_every": 30, "validation_batches": 1}
        out = tmp_path_factory.mktemp("dexvla")
        last = train(make(stage(**options, checkpoint_every=0, log_every=5)), out, threads=1)
        entries = read_metrics(out / "metrics.jsonl")
    assert entries[-2]["loss/text"] < 0.7 * entries[0]["loss/text"]
    assert entries[-1]["validation/action_error/all"] > 0
    return load_policy(last, think=("subtask",))


def test_it_reasons_and_then_acts(policy: Policy) -> None:
    observations = [DATA.observation(row) for row in (3, 30)]
    chunks = policy.infer(observations, seeds=[1, 2])
    actions = np.concatenate([MemoryDataset(name).columns["action"] for name in ("data0", "data1")])
    for chunk in chunks:
        assert isinstance(chunk.text["subtask"], str)
        assert chunk.actions.shape == (4, 6)
        assert ((chunk.actions >= actions.min(0) - 2e-4) & (chunk.actions <= actions.max(0) + 2e-4)).all()
    assert policy.infer(observations[:1], seeds=[1])[0].text == chunks[0].text


def test_reasoning_is_reused_between_ticks(policy: Policy) -> None:
    """A session's text is read behind the prompt, without the end of the turn, and nothing is written."""
    observation = DATA.observation(3)
    session = Session(seed=1, calls=1, text={"subtask": "reach for the block"})
    again = Policy(policy.model, policy.processor, think=("subtask",), think_every=2)
    chunk = again.infer([observation], [session], seeds=[5])[0]
    batch = policy.processor.observations([observation], text=[{"subtask": "reach for the block"}])
    expected = policy.model.sample(batch, noise=again._noise([5])).actions[0, 0].numpy()
    np.testing.assert_allclose(chunk.actions, policy.processor.robot_actions(expected, observation.state), atol=1e-5)
    assert chunk.text == session.text
    fresh = policy.model.sample(policy.processor.observations([observation]), noise=again._noise([5])).actions
    assert not np.allclose(fresh[0, 0].numpy(), expected)


def test_heads_for_each_robot_follow_the_data(tmp_path: Path) -> None:
    last = train(make(stage(steps=1), head_per_embodiment=True), tmp_path, threads=1)
    loaded = load_policy(last)
    assert loaded.model.config.head.embodiments == ("arm",)
    assert loaded.model.config.head.action_dims == (6,)


def test_adapters_stand_beside_the_vlm_and_the_rest_trains_in_full() -> None:
    frozen = dict.fromkeys(("embed", "merger"), 0.0)
    adapted = stage("adapt", lora=2, lora_parts=("llm", "vision"), trains={"*": 1e-2, **frozen})
    model = DexVLA(make_config("dexvla", "nano", **TINY_VLA))
    add_adapters(model, adapted)
    optimiser = make_optimiser(model, adapted)
    learning = {id(p) for group in optimiser.param_groups for p in group["params"]}
    parts, adapters = model.parts(), adapter_parameters(model)
    full = {id(p) for part in ("projectors", "film", "head") for p in parts[part]}
    assert learning == adapters | full
    assert len(adapters) == 2 * (2 * 7 + 2 * 4)  # of two language and two vision layers; the merger has none

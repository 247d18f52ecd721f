from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from visuomotor.apps import evaluation
from visuomotor.contract import EvalPlan
from visuomotor.data.config import ProcessorConfig

PLAN = EvalPlan(environment="line", wording="heldout")


def told(monkeypatch: pytest.MonkeyPatch, config: ProcessorConfig, plan: EvalPlan) -> Any:
    """The templates of the policy that is rolled out."""
    processor = SimpleNamespace(config=config, embodiments=("arm",))
    policy = SimpleNamespace(processor=processor, think=(), actions_from="flow", malformed=0)
    monkeypatch.setattr(evaluation, "load_policy", lambda path, think: policy)
    monkeypatch.setattr(evaluation, "evaluate", lambda policy, plan, out, **rest: policy.processor.config.templates)
    return evaluation.evaluate_checkpoint(Path("mine"), plan, Path("out"))


def test_settings_of_the_policy_come_from_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    processor = SimpleNamespace(embodiments=("arm",))
    policy = SimpleNamespace(processor=processor, think=(), actions_from="tokens", malformed=0)
    monkeypatch.setattr(evaluation, "load_policy", lambda path, **settings: given.update(settings) or policy)
    monkeypatch.setattr(evaluation, "evaluate", lambda policy, plan, out, **rest: plan)
    plan = EvalPlan(environment="line", think=("box",), actions_from="tokens", policy={"think_every": 2, "steps": 5})
    evaluation.evaluate_checkpoint(Path("mine"), plan, Path("out"))
    assert given == {"think": ("box",), "actions_from": "tokens", "think_every": 2, "steps": 5}


def test_held_out_wording_is_for_policies_that_know_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, ProcessorConfig(templates="grammar"), PLAN) == "heldout"
    assert told(monkeypatch, ProcessorConfig(templates="grammar"), replace(PLAN, wording="canonical")) == "grammar"
    with pytest.raises(ValueError, match="mine was trained without templates"):
        told(monkeypatch, ProcessorConfig(), PLAN)


def test_a_checkpoint_of_several_robots_drives_the_worlds(monkeypatch: pytest.MonkeyPatch) -> None:
    world = SimpleNamespace(embodiment="sawyer", close=lambda: None)
    processor = SimpleNamespace(config=ProcessorConfig(), embodiments=("arm", "sawyer"))

    def load(path: Path, think: Any, embodiment: str = "arm") -> Any:
        return SimpleNamespace(processor=processor, think=(), actions_from="flow", malformed=0, embodiment=embodiment)

    monkeypatch.setattr(evaluation, "load_policy", load)
    monkeypatch.setattr(evaluation, "make_environment", lambda name, **options: world)
    monkeypatch.setattr(evaluation, "evaluate", lambda policy, plan, out, **rest: policy.embodiment)
    found: Any = evaluation.evaluate_checkpoint(Path("mine"), replace(PLAN, wording="canonical"), Path("out"))
    assert found == "sawyer"

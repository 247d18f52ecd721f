"""Which rollouts a plan means."""

from dataclasses import replace
from typing import Any

import pytest

from tests.evaluation import fake_world
from visuomotor.contract import EvalPlan, Scenario
from visuomotor.evaluation.controls import CONTROLS, plan_jobs, require_disjoint, spread

PLAN = EvalPlan(environment="fake", episodes=6, control_episodes=3)


def by_condition(jobs: list[Any]) -> dict[str, list[Any]]:
    return {name: [job for job in jobs if job.condition == name] for name in dict.fromkeys(j.condition for j in jobs)}


def test_controls_repeat_clean_scenarios_with_one_thing_changed() -> None:
    jobs = by_condition(plan_jobs(PLAN, (*CONTROLS, "no_instruction")))
    clean = [job.scenario for job in jobs["train"]]
    assert {name: len(found) for name, found in jobs.items()} == {
        "train": 6, "wrong_instruction": 3, "black_cameras": 3, "heldout_paraphrase": 3, "no_instruction": 3
    }  # fmt: skip
    for name in ("wrong_instruction", "black_cameras", "no_instruction"):
        assert [job.scenario for job in jobs[name]] == clean[:3]
        assert all(job.control for job in jobs[name])
    assert [job.black for job in jobs["black_cameras"]] == [True] * 3
    assert [job.instruction for job in jobs["no_instruction"]] == [""] * 3
    assert [job.instruction for job in jobs["wrong_instruction"]] == [
        "go to the right", "go to the left", "go to the right"
    ]  # fmt: skip
    assert [job.scenario.task for job in jobs["wrong_instruction"]] == ["left", "right", "left"]


def test_a_split_of_the_plan_is_no_control_and_no_controls_on_request() -> None:
    jobs = by_condition(plan_jobs(replace(PLAN, splits=("train", "heldout_paraphrase"))))
    assert len(jobs["heldout_paraphrase"]) == 6
    assert not any(job.control for job in jobs["heldout_paraphrase"])
    assert set(by_condition(plan_jobs(replace(PLAN, control_episodes=0)))) == {"train"}


def test_a_world_without_other_sentences_borrows_another_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_world, "WORLD", replace(fake_world.WORLD, other_instruction=None))
    wrong = by_condition(plan_jobs(PLAN))["wrong_instruction"]
    assert all(job.borrow.task != job.scenario.task for job in wrong)


def test_only_options_that_a_function_names_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    original = fake_world.scenarios

    def scenarios(split: str, count: int, seed: int, vocabulary: str = "small") -> list[Scenario]:
        seen.append(vocabulary)
        return original(split, count, seed)

    monkeypatch.setattr(fake_world, "WORLD", replace(fake_world.WORLD, scenarios=scenarios))
    plan_jobs(replace(PLAN, control_episodes=0, options={"vocabulary": "full", "broken_seed": 7}))
    assert seen == ["full"]


def test_the_tabletops_tasks_can_be_chosen() -> None:
    plan = replace(PLAN, environment="tabletop", options={"tasks": ["push"], "distractors": 1})
    jobs = by_condition(plan_jobs(plan, ("wrong_instruction",)))
    assert {job.scenario.options["kind"] for job in jobs["train"]} == {"push left", "push right"}
    assert len(jobs["wrong_instruction"]) == 3


def test_spread_takes_tasks_in_turn() -> None:
    def scenario(task: str, seed: int, **options: Any) -> Scenario:
        return Scenario(environment="fake", task=task, seed=seed, options=options)

    found = [scenario(task, seed) for task in ("a", "b", "c") for seed in range(4)]
    assert [s.task for s in spread(found, 5)] == ["a", "b", "c", "a", "b"]
    kinds = [scenario(f"push {i}", i, kind="push") for i in range(3)] + [scenario("lift 1", 9, kind="lift")]
    assert [s.task for s in spread(kinds, 2)] == ["push 0", "lift 1"]


def test_a_training_seed_is_refused() -> None:
    jobs = plan_jobs(PLAN)
    require_disjoint(jobs, [{"environment": "fake", "seed": 5}, {"environment": "other", "seed": PLAN.seed}])
    with pytest.raises(ValueError, match="seeds of the training data"):
        require_disjoint(jobs, [{"environment": "fake", "seed": PLAN.seed + 1, "task": "left"}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 99_999}, "belong to training"),
        ({"splits": ("trian",)}, "no split"),
        ({"splits": ()}, "Nothing to evaluate"),
        ({"episodes": 0}, "Nothing to evaluate"),
        ({"environment": "fakee"}, "Did you mean 'fake'"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_jobs(replace(PLAN, **change))
    with pytest.raises(ValueError, match="Unknown controls"):
        plan_jobs(PLAN, ("wrong_words",))

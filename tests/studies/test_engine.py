"""How a study is carried out; training and rollouts are fakes that leave what they would leave."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.studies.test_summary import record
from visuomotor.apps.answers import AnswerPlan
from visuomotor.contract import EvalPlan, Run
from visuomotor.data import sources
from visuomotor.evaluation.answers import Answer, score
from visuomotor.evaluation.results import EpisodeRecord
from visuomotor.studies import engine
from visuomotor.studies.dexvla_curriculum import DEXVLA_CURRICULUM
from visuomotor.studies.dm0_mechanisms import DM0_MECHANISMS
from visuomotor.studies.engine import StudyPlan, run_study
from visuomotor.studies.summary import summarise
from visuomotor.training import trainer

Calls = list[tuple[str, str]]
trained: dict[str, Run] = {}  # by folder, of the latest training
contents: dict[str, str] = {}  # by name, of data sets
NAMES = [arm.name for arm in DM0_MECHANISMS.arms]
CURRICULUM = replace(DEXVLA_CURRICULUM, measure=None)
TRAINED = [arm.name for arm in DM0_MECHANISMS.arms if arm.weights_of is None]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """("train", where), ("eval", "checkpoint's arm as arm: think") in order."""
    found: Calls = []

    def train(run: Run, out: Path, **options: Any) -> None:
        seeded = "seed" in out.parent.name
        found.append(("train", str(out.parent.relative_to(out.parents[2] if seeded else out.parents[1]))))
        for part in ("checkpoints", "state"):
            (out / part / "step-000007").mkdir(parents=True, exist_ok=True)
        (out / "last").write_text("step-000007\n")
        trained[str(out.parent.name)] = run
        assert next(iter(run.stages.values())).seed == (int(out.parent.name[-1]) if seeded else 0)

    def evaluate(checkpoint: Path, plan: EvalPlan, out: Path, **options: Any) -> None:
        found.append(("eval", f"{checkpoint.parents[3].name} as {out.parents[1].name}: {' '.join(plan.think or ())}"))
        out.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(asdict(record(i, i < 2, seed=plan.seed))) + "\n" for i in range(4)]
        (out / "results.jsonl").write_text("".join(lines))
        (out / "results.json").write_text("{}")

    def ask(checkpoint: Path, plan: AnswerPlan, out: Path, **options: Any) -> None:
        found.append(("ask", f"{out.parents[1].name}: {dict(plan.kinds)} {dict(plan.begin)} of {plan.questions}"))
        out.mkdir(parents=True, exist_ok=True)
        given = [Answer(kind="box", question="?", expected="1 1 3 3", given=text) for text in ("1 1 3 3", "no")]
        (out / "answers.json").write_text(json.dumps({"scores": [s.to_json() for s in score(given)]}))

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(engine, "evaluate_answers", ask)
    monkeypatch.setattr(engine, "evaluate_checkpoint", evaluate)
    monkeypatch.setattr(
        sources, "open_source", lambda path: SimpleNamespace(hash=lambda: contents.get(Path(path).name, ""))
    )
    return found


def watch(title: str) -> Any:
    return SimpleNamespace()


def test_seed_by_seed_each_arm_is_trained_once_and_rolled_out(calls: Calls, tmp_path: Path) -> None:
    plan = StudyPlan(out=tmp_path, data=tmp_path / "data", seeds=2, episodes=4, questions=30)
    run_study(DM0_MECHANISMS, plan, watch)
    trained = [where for what, where in calls if what == "train"]
    assert trained == ["base", *(f"{name}/seed-{seed}" for seed in range(2) for name in TRAINED)]
    rolled = [what for kind, what in calls if kind == "eval"]
    assert len(rolled) == 2 * len(NAMES)
    assert "scaffold as scaffold: " in rolled
    assert "scaffold as scaffold-text-first: subtask box" in rolled
    asked = [what for kind, what in calls if kind == "ask"]
    assert asked == [f"{name}: {{'box': 1.0}} {{'box': 'Box:'}} of 30" for _ in range(2) for name in TRAINED]
    [summary] = summarise(DM0_MECHANISMS, plan)
    assert all((arm.boxes.successes, arm.boxes.n) == (2, 4) for arm in summary.arms if arm.boxes)
    assert all(arm.boxes for arm in summary.arms)
    assert [arm.name for arm in summary.arms] == NAMES
    assert all([name.split()[0] for name in arm.checkpoints] == ["step-000007"] * 2 for arm in summary.arms)
    assert {arm.verdict for arm in summary.arms} == {None, "cannot tell"}


def test_a_study_may_measure_more_and_say_what_was_published(calls: Calls, tmp_path: Path) -> None:
    measured: list[str] = []

    def measure(checkpoint: Path, data: Path, rollouts: list[EpisodeRecord], out: Path) -> dict[str, float]:
        measured.append(checkpoint.parents[3].name)
        assert out.is_dir()
        return {"error": float(len(rollouts))}

    arms = (replace(DM0_MECHANISMS.arms[0], published="64, 58"), *DM0_MECHANISMS.arms[1:])
    study = replace(DM0_MECHANISMS, arms=arms, measure=measure)
    plan = StudyPlan(out=tmp_path, data=tmp_path / "data", seeds=2, episodes=4)
    for _ in range(2):  # the second time it is there
        run_study(study, plan, lambda title: lambda done, total, text: None)
    assert measured == TRAINED * 2
    [summary] = summarise(study, plan)
    assert all(arm.measured == {"error": (4.0, 4.0)} for arm in summary.arms)
    columns, rows = summary.table()
    assert columns[-2:] == ["error", "published"]
    assert rows[0][-2:] == ["4 4", "64, 58"]
    assert all(len(row) == len(columns) for row in rows)


def test_what_is_done_is_reused_and_more_seeds_are_added(calls: Calls, tmp_path: Path) -> None:
    plan = StudyPlan(out=tmp_path, data=tmp_path / "data", seeds=1, episodes=4)
    run_study(DM0_MECHANISMS, plan, watch)
    calls.clear()
    run_study(DM0_MECHANISMS, plan, watch)
    assert calls == []
    run_study(DM0_MECHANISMS, replace(plan, seeds=2), watch)
    assert {where for what, where in calls if what == "train"} == {f"{name}/seed-1" for name in TRAINED}


def test_other_settings_do_not_replace_what_is_there_unasked(calls: Calls, tmp_path: Path) -> None:
    plan = StudyPlan(out=tmp_path, data=tmp_path / "data", seeds=1, episodes=4)
    run_study(DM0_MECHANISMS, plan, watch)
    with pytest.raises(FileExistsError, match=r"train was made with other settings.*--overwrite"):
        run_study(DM0_MECHANISMS, replace(plan, minutes=9), watch)
    calls.clear()
    run_study(DM0_MECHANISMS, plan, watch)  # the refusal has spoilt nothing
    assert calls == []
    run_study(DM0_MECHANISMS, replace(plan, minutes=9, overwrite=True), watch)
    assert ("train", "flow/seed-0") in calls


def test_overrides_reach_the_arms_and_what_is_no_stage_the_base(calls: Calls, tmp_path: Path) -> None:
    given = {"stages.train.batch_size": "7", "config.noise_draws": "3"}
    run_study(DM0_MECHANISMS, StudyPlan(out=tmp_path, data=tmp_path / "d", seeds=1, overrides=given), watch)
    assert trained["seed-0"].stages["train"].batch_size == 7
    assert trained["base"].stages["train"].batch_size != 7
    assert trained["base"].config.noise_draws == trained["seed-0"].config.noise_draws == 3


def test_arguments_of_the_recipe_reach_all_arms_but_those_that_differ(calls: Calls, tmp_path: Path) -> None:
    plan = StudyPlan(out=tmp_path, data=tmp_path / "data", seeds=1, arguments={"sawyer": "robots/mine"})
    run_study(CURRICULUM, plan, watch)
    before = trained["seed-0"].before
    assert before is not None
    assert [s.path for s in before.stages["expert"].mixture.sources] == [str(plan.data), "robots/mine"]
    with pytest.raises(ValueError, match="--head: study 'dexvla-curriculum' sets it itself"):
        run_study(CURRICULUM, replace(plan, arguments={"head": "unet"}), watch)
    with pytest.raises(ValueError, match="--seed: study"):
        run_study(CURRICULUM, replace(plan, arguments={"seed": 3}), watch)


def test_other_demonstrations_of_any_robot_are_not_what_an_arm_was_made_of(
    calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = StudyPlan(out=tmp_path, data=tmp_path / "data", seeds=1)
    run_study(CURRICULUM, plan, watch)
    monkeypatch.setitem(contents, "sawyer", "others")
    with pytest.raises(FileExistsError, match=r"curriculum.*train was made with other"):
        run_study(CURRICULUM, plan, watch)  # stage-2 and unet, without the Sawyer, stand


def test_some_arms_are_a_study_of_their_own(calls: Calls, tmp_path: Path) -> None:
    some = DM0_MECHANISMS.only(("tokens", "questions", "questions-text-first"))
    assert [(arm.name, arm.against) for arm in some.arms] == [
        ("tokens", None), ("questions", None), ("questions-text-first", "questions"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="Did you mean 'tokens'"):
        DM0_MECHANISMS.only(("token",))
    with pytest.raises(ValueError, match="rolls out 'questions'"):
        DM0_MECHANISMS.only(("questions-text-first",))


def test_sizes_that_make_no_study_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="seeds is 0"):
        StudyPlan(out=tmp_path, data=tmp_path, seeds=0)

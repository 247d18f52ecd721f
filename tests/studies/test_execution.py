"""The study of executors: what is rolled out, what is compared with what, what is reused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.apps.run_folder import record
from visuomotor.contract import EvalPlan
from visuomotor.evaluation.results import RECORDS_FILE, append_record, read_records, summarise
from visuomotor.evaluation.statistics import compare_paired
from visuomotor.studies import execution
from visuomotor.studies.execution import ExecutionPlan, run_execution_study, table

OUTCOMES = {"receding_horizon": (True, False, False, False, False, False), "rtc": (True,) * 6}


@pytest.fixture
def rolled_out(monkeypatch: pytest.MonkeyPatch) -> list[EvalPlan]:
    found: list[EvalPlan] = []

    def evaluate(checkpoint: Path, plan: EvalPlan, out: Path, **options: Any) -> None:
        found.append(plan)
        out.mkdir(parents=True, exist_ok=True)
        for index, success in enumerate(OUTCOMES[plan.executor]):
            told = {"stalls": 4, "jerk": 1.0, "seam_jerk": 2.5}
            append_record(out / RECORDS_FILE, record(index, success, **told))
        summarise({"control_hz": 10.0}, read_records(out / RECORDS_FILE)).save(out)

    monkeypatch.setattr(execution, "evaluate_checkpoint", evaluate)
    monkeypatch.setattr(execution, "checkpoint_hash", lambda path: "6040e9ac")
    monkeypatch.setattr(execution, "policy_for", lambda path, plan: SimpleNamespace(guidance=("guided",)))
    return found


def test_every_executor_meets_every_latency_on_the_same_starts(rolled_out: list[EvalPlan], tmp_path: Path) -> None:
    plan = ExecutionPlan(
        checkpoint=tmp_path, out=tmp_path / "out", executors=("receding_horizon", "rtc"), latencies=(0, 200), episodes=6
    )
    results = run_execution_study(plan, lambda title: lambda done, total, text: None)
    assert [(p.executor, p.latency) for p in rolled_out] == [
        ("receding_horizon", 0), ("rtc", 0), ("receding_horizon", 0.2), ("rtc", 0.2)
    ]  # fmt: skip
    assert len({(p.seed, p.episodes, str(p.options), p.execute) for p in rolled_out}) == 1
    paired = compare_paired(OUTCOMES["rtc"], OUTCOMES["receding_horizon"])
    assert [r.difference for r in results] == [None, paired.difference, None, paired.difference]
    assert results[1].p_value == pytest.approx(min(2 * paired.p_value, 1))  # two comparisons
    assert results[1].motion.stall_seconds == pytest.approx(0.4)
    columns, rows = table(results)
    assert dict(zip(columns, rows[3], strict=True))["at seams"] == "2.5"
    assert rows[3][3].startswith("+83 [")
    written = json.loads((plan.out / "execution.json").read_text())
    assert written["checkpoint"] == "6040e9ac"
    assert len(written["results"]) == 4
    run_execution_study(plan, lambda title: lambda done, total, text: None)
    assert len(rolled_out) == 4  # what is done is reused


def test_what_the_policy_cannot_do_is_refused_before_anything_is_rolled_out(
    rolled_out: list[EvalPlan], tmp_path: Path
) -> None:
    plan = ExecutionPlan(
        checkpoint=tmp_path, out=tmp_path / "out", executors=("receding_horizon", "rtc", "rtc_identity")
    )
    with pytest.raises(ValueError, match=r"which rtc_identity need; pass --executors receding_horizon rtc\."):
        run_execution_study(plan, lambda title: lambda done, total, text: None)
    assert rolled_out == []


def test_a_study_needs_its_reference(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="receding_horizon"):
        ExecutionPlan(checkpoint=tmp_path, out=tmp_path, executors=("rtc",))
    with pytest.raises(ValueError, match="at least one latency"):
        ExecutionPlan(checkpoint=tmp_path, out=tmp_path, latencies=())

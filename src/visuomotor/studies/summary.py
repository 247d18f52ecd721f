"""What a study found: success by arm with intervals, and what each arm adds, with "cannot tell" as a result."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from visuomotor.evaluation.results import RECORDS_FILE, EpisodeRecord
from visuomotor.evaluation.statistics import Rate, compare_paired, holm, minimum_detectable_effect
from visuomotor.studies.engine import Arm, Study

__all__ = ["ArmResult", "Summary", "summarise"]

ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """An arm over all seeds.

    by_seed: its rates one training seed at a time. difference: to the arm it is compared with, paired by start, with
    its 95 % interval low, high, and the p-value adjusted for the number of comparisons (Holm); None for the first arm.
    verdict: "more", "less" or "cannot tell".
    """

    name: str
    adds: str
    against: str | None
    rate: Rate
    by_seed: tuple[Rate, ...]
    steps: tuple[int, ...]
    call_seconds: float
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    verdict: str | None = None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All arms of a condition. `detectable`: the smallest difference that so many episodes show with 80 % power,
    as if they were independent; paired starts show less, few training seeds can hide more."""

    condition: str
    arms: tuple[ArmResult, ...]
    detectable: float

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column names and rows of text."""
        columns = ["arm", "success", "by seed", "against", "difference", "p", "verdict", "call"]
        rows = []
        for arm in self.arms:
            seeds = " ".join(f"{100 * rate.value:.0f}" for rate in arm.by_seed)
            row = [arm.name, str(arm.rate), seeds, arm.against or ""]
            if arm.difference is None or arm.low is None or arm.high is None or arm.p_value is None:
                row += ["", "", ""]
            else:
                interval = f"[{100 * arm.low:+.0f}, {100 * arm.high:+.0f}]"
                row += [f"{100 * arm.difference:+.0f} {interval}", f"{arm.p_value:.2g}", arm.verdict or ""]
            rows.append([*row, f"{1000 * arm.call_seconds:.0f} ms"])
        return columns, rows


def summarise(study: Study, out: Path, seeds: int) -> list[Summary]:
    """Read the rollouts below `out` and compare; also written as `out`/study.json.

    Raises:
        FileNotFoundError: an arm was not rolled out. ValueError: arms were rolled out on different starts.
    """
    records = {arm.name: [_records(out / arm.name / f"seed-{seed}") for seed in range(seeds)] for arm in study.arms}
    conditions = dict.fromkeys(record.condition for record in records[study.arms[0].name][0])
    found = [_summary(study, out, records, condition) for condition in conditions]
    data = {"study": study.name, "question": study.question, "seeds": seeds, "conditions": [_json(s) for s in found]}
    (out / "study.json").write_text(json.dumps(data, indent=2) + "\n")
    return found


def _summary(study: Study, out: Path, records: dict[str, list[list[EpisodeRecord]]], condition: str) -> Summary:
    chosen = {
        name: [[r for r in sorted(run, key=lambda r: r.index) if r.condition == condition] for run in runs]
        for name, runs in records.items()
    }
    _require_same_starts(chosen)
    outcomes = {name: [r.success for run in runs for r in run] for name, runs in chosen.items()}
    compared = {
        arm.name: compare_paired(outcomes[arm.name], outcomes[arm.against]) for arm in study.arms if arm.against
    }
    adjusted = dict(zip(compared, holm([c.p_value for c in compared.values()]), strict=True))
    arms = []
    for arm in study.arms:
        result = _arm(arm, out, chosen[arm.name])
        if arm.name in compared:
            comparison, p_value = compared[arm.name], adjusted[arm.name]
            told = p_value < ALPHA
            result = ArmResult(
                **{
                    **vars(result),
                    "difference": comparison.difference,
                    "low": comparison.interval.low,
                    "high": comparison.interval.high,
                    "p_value": p_value,
                    "verdict": ("more" if comparison.difference > 0 else "less") if told else "cannot tell",
                }
            )
        arms.append(result)
    count = len(outcomes[study.arms[0].name])
    detectable = minimum_detectable_effect(count, arms[0].rate.value) if count > 1 else 1.0
    return Summary(condition=condition, arms=tuple(arms), detectable=detectable)


def _arm(arm: Arm, out: Path, runs: list[list[EpisodeRecord]]) -> ArmResult:
    by_seed = tuple(Rate(sum(r.success for r in run), len(run)) for run in runs)
    calls = [seconds / size for run in runs for r in run for seconds, size in zip(r.latency, r.batch, strict=True)]
    trained = out / (arm.weights_of or arm.name)
    steps = tuple(_steps(trained / f"seed-{seed}" / "train") for seed in range(len(runs)))
    return ArmResult(
        name=arm.name,
        adds=arm.adds,
        against=arm.against,
        rate=Rate(sum(rate.successes for rate in by_seed), sum(rate.n for rate in by_seed)),
        by_seed=by_seed,
        steps=steps,
        call_seconds=sum(calls) / max(1, len(calls)),
    )


def _steps(train: Path) -> int:
    return int((train / "last").read_text().strip().rpartition("-")[2])


def _records(folder: Path) -> list[EpisodeRecord]:
    path = folder / "eval" / RECORDS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: this arm was not rolled out. Run the study again, it goes on.")
    return [EpisodeRecord.from_json(json.loads(line)) for line in path.read_text().splitlines()]


def _require_same_starts(chosen: dict[str, list[list[EpisodeRecord]]]) -> None:
    starts = {name: [[r.scenario for r in run] for run in runs] for name, runs in chosen.items()}
    first, *others = starts
    for other in others:
        if starts[other] != starts[first]:
            raise ValueError(f"Arms {first!r} and {other!r} were rolled out on different starts; run the study again.")


def _json(summary: Summary) -> dict[str, Any]:
    return asdict(summary)

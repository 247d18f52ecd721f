"""What a study found: success by arm with intervals, and what each arm adds, with "cannot tell" as a result."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from visuomotor.apps.answers import RESULTS_FILE as ANSWERS_FILE
from visuomotor.apps.steps import source_digest
from visuomotor.codec import encode
from visuomotor.evaluation.answers import KindScore
from visuomotor.evaluation.provenance import checkpoint_hash, code_version
from visuomotor.evaluation.results import RECORDS_FILE, EpisodeRecord, read_records
from visuomotor.evaluation.statistics import Rate, compare_paired, holm, minimum_detectable_effect
from visuomotor.locks import FolderLock
from visuomotor.studies.engine import NUMBERS, Arm, Study, StudyPlan
from visuomotor.training.checkpoint import last_checkpoint

__all__ = ["ArmResult", "Summary", "summarise"]

ALPHA = 0.05
Runs = dict[str, list[list[EpisodeRecord]]]  # arm -> training seed -> records in order


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """An arm over all training seeds, in one condition.

    by_seed: its rates one training seed at a time; boxes: how many of the boxes that it was asked for it finds (IoU
    above 0.5), None where the study asks nothing; checkpoints: name and hash of the last one of each.
    difference: to the arm it is compared with, paired by start, with its 95 % interval (low, high) and the p-value
    adjusted for all comparisons of the study (Holm); None for the first arm. These hold for the trained policies.
    published: what a paper reports; measured: {name: number of each training seed} where the study measures more.
    verdict: "more" or "less" where the p-value is below 0.05 and every training seed points the same way, else "cannot
    tell": how much another training would differ is known from the seeds alone.
    """

    name: str
    adds: str
    against: str | None
    rate: Rate
    by_seed: tuple[Rate, ...]
    checkpoints: tuple[str, ...]
    seconds_per_observation: float
    boxes: Rate | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    verdict: str | None = None
    published: str = ""
    measured: dict[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All arms in one condition. `detectable`: the smallest difference that so many episodes show with 80 % power,
    as if they were independent; paired starts show less, few training seeds can hide more."""

    condition: str
    arms: tuple[ArmResult, ...]
    detectable: float

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Column names and rows of text."""
        measured = list(dict.fromkeys(name for arm in self.arms for name in arm.measured))
        told = any(arm.published for arm in self.arms)
        asked = any(arm.boxes for arm in self.arms)
        columns = ["arm", "success", "by seed", "against", "difference", "p", "verdict", "per observation"]
        columns += ["boxes"] * asked + measured + ["published"] * told
        rows = []
        for arm in self.arms:
            seeds = " ".join(f"{100 * rate.value:.0f}" for rate in arm.by_seed)
            row = [arm.name, str(arm.rate), seeds, arm.against or ""]
            if arm.difference is None or arm.low is None or arm.high is None or arm.p_value is None:
                row += ["", "", ""]
            else:
                interval = f"[{100 * arm.low:+.0f}, {100 * arm.high:+.0f}]"
                row += [f"{100 * arm.difference:+.0f} {interval}", f"{arm.p_value:.2g}", arm.verdict or ""]
            row += [f"{1000 * arm.seconds_per_observation:.0f} ms"]
            row += ["" if arm.boxes is None else str(arm.boxes)] * asked
            row += [" ".join(f"{value:.3g}" for value in arm.measured.get(name, ())) for name in measured]
            rows.append(row + [arm.published] * told)
        return columns, rows


def summarise(study: Study, plan: StudyPlan) -> list[Summary]:
    """Read the rollouts below `plan.out` and compare; also written as study.json there.

    Raises:
        FileNotFoundError: an arm was not rolled out. ValueError: arms were rolled out on different starts.
        FolderInUse: the study still runs.
    """
    with FolderLock(plan.out, nested=True):
        return _summarise(study, plan)


def _summarise(study: Study, plan: StudyPlan) -> list[Summary]:
    records: Runs = {
        arm.name: [_records(plan.out / arm.name / f"seed-{seed}") for seed in range(plan.seeds)] for arm in study.arms
    }
    conditions = dict.fromkeys(record.condition for record in records[study.arms[0].name][0])
    found = _adjusted([_summary(study, plan, _chosen(records, condition), condition) for condition in conditions])
    data = {
        "study": study.name,
        "question": study.question,
        "code_version": code_version(),
        "source": source_digest()[:16],
        "plan": encode(plan),
        "conditions": encode(found),
    }
    partial = plan.out / "study.json.partial"
    partial.write_text(json.dumps(data, indent=2) + "\n")
    partial.replace(plan.out / "study.json")
    return found


def _summary(study: Study, plan: StudyPlan, runs: Runs, condition: str) -> Summary:
    """With p-values that are not adjusted yet, and no verdicts."""
    _require_same_starts(runs)
    arms = []
    for arm in study.arms:
        result = _arm(arm, plan.out, runs[arm.name], asked=study.boxes is not None)
        if arm.against is not None:
            pairs = [_outcomes(runs[name]) for name in (arm.name, arm.against)]
            found = compare_paired(*pairs)
            interval = found.interval
            result = replace(
                result, difference=found.difference, low=interval.low, high=interval.high, p_value=found.p_value
            )
        arms.append(result)
    count = len(_outcomes(runs[study.arms[0].name]))
    detectable = minimum_detectable_effect(count, arms[0].rate.value) if count > 1 else 1.0
    return Summary(condition=condition, arms=tuple(arms), detectable=detectable)


def _adjusted(summaries: list[Summary]) -> list[Summary]:
    """Holm over all comparisons of all conditions, then the verdicts."""
    compared = [arm for summary in summaries for arm in summary.arms if arm.p_value is not None]
    adjusted = iter(holm([arm.p_value for arm in compared if arm.p_value is not None]))

    def judged(arm: ArmResult, arms: dict[str, ArmResult]) -> ArmResult:
        if arm.p_value is None or arm.difference is None or arm.against is None:
            return arm
        p_value, other = next(adjusted), arms[arm.against]
        signs = {(a.value > b.value) - (a.value < b.value) for a, b in zip(arm.by_seed, other.by_seed, strict=True)}
        told = p_value < ALPHA and signs in ({1}, {-1})
        verdict = "cannot tell" if not told else "more" if arm.difference > 0 else "less"
        return replace(arm, p_value=p_value, verdict=verdict)

    return [
        replace(summary, arms=tuple(judged(arm, {a.name: a for a in summary.arms}) for arm in summary.arms))
        for summary in summaries
    ]


def _arm(arm: Arm, out: Path, runs: list[list[EpisodeRecord]], *, asked: bool) -> ArmResult:
    by_seed = tuple(Rate(sum(r.success for r in run), len(run)) for run in runs)
    calls = [seconds / size for run in runs for r in run for seconds, size in zip(r.latency, r.batch, strict=True)]
    trained = [out / (arm.weights_of or arm.name) / f"seed-{seed}" for seed in range(len(runs))]
    numbers = [json.loads((f / NUMBERS).read_text()) for f in trained if (f / NUMBERS).exists()]
    return ArmResult(
        name=arm.name,
        adds=arm.adds,
        against=arm.against,
        rate=_pooled(by_seed),
        by_seed=by_seed,
        checkpoints=tuple(_named(last_checkpoint(folder / "train")) for folder in trained),
        seconds_per_observation=sum(calls) / max(1, len(calls)),
        boxes=_pooled([_boxes(folder) for folder in trained]) if asked else None,
        published=arm.published,
        measured={
            name: tuple(values[name] for values in numbers if name in values)
            for name in dict.fromkeys(name for values in numbers for name in values)
        },
    )


def _pooled(rates: Sequence[Rate]) -> Rate:
    return Rate(sum(rate.successes for rate in rates), sum(rate.n for rate in rates))


def _boxes(folder: Path) -> Rate:
    """Boxes found."""
    path = folder / "answers" / ANSWERS_FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Run the study again, it goes on.")
    scores = [KindScore.from_json(data) for data in json.loads(path.read_text())["scores"]]
    return next(found for found in (each.over_half for each in scores) if found is not None)


def _named(checkpoint: Path) -> str:
    return f"{checkpoint.name} {checkpoint_hash(checkpoint)}"


def _records(folder: Path) -> list[EpisodeRecord]:
    records = read_records(folder / "eval" / RECORDS_FILE)
    if not records:
        raise FileNotFoundError(f"{folder / 'eval'} holds no rollouts. Run the study again, it goes on.")
    return sorted(records, key=lambda record: record.index)


def _chosen(records: Runs, condition: str) -> Runs:
    return {name: [[r for r in run if r.condition == condition] for run in runs] for name, runs in records.items()}


def _outcomes(runs: list[list[EpisodeRecord]]) -> list[bool]:
    return [record.success for run in runs for record in run]


def _require_same_starts(runs: Runs) -> None:
    starts = {name: [[r.scenario for r in run] for run in own] for name, own in runs.items()}
    first, *others = starts
    for other in others:
        if starts[other] != starts[first]:
            raise ValueError(f"Arms {first!r} and {other!r} were rolled out on different starts; run the study again.")

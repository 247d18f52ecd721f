import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from visuomotor.evaluation.answers import Answer, score
from visuomotor.evaluation.results import EpisodeRecord
from visuomotor.studies.engine import Arm, Study, StudyPlan
from visuomotor.studies.summary import Summary
from visuomotor.studies.summary import summarise as summarise_plan

STUDY = Study(
    name="letters", question="Which letter?", recipe="own-data",
    arms=(
        Arm(name="a", adds="nothing"),
        Arm(name="b", adds="much", against="a"),
        Arm(name="c", adds="the same, said first", weights_of="b", against="b"),
    ),
)  # fmt: skip


def summarise(study: Study, out: Path, seeds: int) -> list[Summary]:
    return summarise_plan(study, StudyPlan(out=out, data=out / "data", seeds=seeds))


def record(index: int, success: bool, seed: int = 0) -> EpisodeRecord:
    scenario = {"environment": "line", "task": "left", "seed": seed + index, "split": "train", "options": {}}
    return EpisodeRecord(
        condition="train", index=index, split="train", control=False, scenario=scenario, instruction="go",
        success=success, steps=3, seconds=1.0 if success else None, progress=1.0, latency=(0.2, 0.4), batch=(2, 4),
    )  # fmt: skip


def leave(out: Path, arm: str, seed: int, records: list[EpisodeRecord]) -> None:
    """What rolling an arm out leaves, in an order of its own, as workers finish."""
    folder = out / arm / f"seed-{seed}"
    (folder / "eval").mkdir(parents=True)
    lines = [json.dumps(asdict(r)) + "\n" for r in reversed(records)]
    (folder / "eval" / "results.jsonl").write_text("".join(lines))
    name = f"step-{10 * seed:06d}"
    for part in ("checkpoints", "state"):
        (folder / "train" / part / name).mkdir(parents=True)
    (folder / "train" / "last").write_text(f"{name}\n")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for seed in range(2):
        leave(tmp_path, "a", seed, [record(i, i < 5) for i in range(20)])
        leave(tmp_path, "b", seed, [record(i, i < 15 + seed) for i in range(20)])
        leave(tmp_path, "c", seed, [record(i, i < 14 + seed) for i in range(20)])
    return tmp_path


def test_arms_are_compared_with_the_one_they_add_to(out: Path) -> None:
    [summary] = summarise(STUDY, out, 2)
    a, b, c = summary.arms
    assert (a.rate.successes, b.rate.successes, c.rate.successes) == (10, 31, 29)
    assert [rate.successes for rate in b.by_seed] == [15, 16]
    assert a.verdict is None
    assert (b.verdict, c.verdict) == ("more", "cannot tell")
    assert b.difference == pytest.approx(21 / 40)
    assert b.low is not None
    assert b.high is not None
    assert 0 < b.low < 21 / 40 < b.high
    # 21 and 0 discordant pairs, twice the tail of 21 coins, times the two comparisons of Holm's first step
    assert b.p_value == pytest.approx(2 * 2 * 0.5**21)
    assert [name.split()[0] for name in c.checkpoints] == [
        "step-000000",
        "step-000010",
    ]  # those of the arm whose weights it rolls out
    assert a.seconds_per_observation == pytest.approx(0.1)
    assert 0.1 < summary.detectable < 0.5
    columns, rows = summary.table()
    assert all(len(row) == len(columns) for row in rows)
    data = json.loads((out / "study.json").read_text())
    told = data["conditions"][0]["arms"][1]
    assert told["verdict"] == "more"
    assert told["rate"]["low"] < told["rate"]["successes"] / told["rate"]["n"] < told["rate"]["high"]
    assert data["plan"]["seeds"] == 2
    assert data["code_version"]


def test_training_seeds_that_disagree_cannot_tell(tmp_path: Path) -> None:
    for seed, (first, second) in enumerate(((10, 200), (100, 90))):
        leave(tmp_path, "a", seed, [record(i, i < first) for i in range(200)])
        leave(tmp_path, "b", seed, [record(i, i < second) for i in range(200)])
        leave(tmp_path, "c", seed, [record(i, i < second) for i in range(200)])
    [summary] = summarise(STUDY, tmp_path, 2)
    b = summary.arms[1]
    assert b.p_value is not None
    assert b.p_value < 1e-10
    assert b.verdict == "cannot tell"


def test_other_starts_and_missing_arms_are_named(out: Path) -> None:
    leave(out, "a", 2, [record(i, True) for i in range(20)])
    with pytest.raises(FileNotFoundError, match=r"b/seed-2/eval holds no rollouts"):
        summarise(STUDY, out, 3)
    for arm in ("b", "c"):
        leave(out, arm, 2, [record(i, True, seed=100) for i in range(20)])
    with pytest.raises(ValueError, match="'a' and 'b' were rolled out on different starts"):
        summarise(STUDY, out, 3)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ((Arm(name="a", adds=""), Arm(name="a", adds="")), "two arms 'a'"),
        ((Arm(name="a", adds="", against="b"), Arm(name="b", adds="")), "compared with 'b'"),
        ((Arm(name="a", adds=""), Arm(name="b", adds="", weights_of="a", fields={"x": "1"})), "no training of its own"),
        (
            (Arm(name="a", adds=""), Arm(name="b", adds="", weights_of="a"), Arm(name="c", adds="", weights_of="b")),
            "'b', which has no training of its own",
        ),
    ],
)
def test_contradictions_are_refused(arms: tuple[Arm, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Study(name="s", question="?", recipe="own-data", arms=arms)


def test_boxes_are_counted_over_all_seeds_where_the_study_asks(out: Path) -> None:
    asking = replace(STUDY, boxes="Box:")
    with pytest.raises(FileNotFoundError, match="goes on"):
        summarise(asking, out, 2)
    for arm, right in (("a", 3), ("b", 9)):
        for seed in range(2):
            given = ["10 10 30 30"] * (right + seed) + ["none"] * (10 - right - seed)
            answers = [Answer(kind="box", question="?", expected="10 10 30 30", given=text) for text in given]
            folder = out / arm / f"seed-{seed}" / "answers"
            folder.mkdir()
            (folder / "answers.json").write_text(json.dumps({"scores": [s.to_json() for s in score(answers)]}))
    [summary] = summarise(asking, out, 2)
    assert [(arm.boxes.successes, arm.boxes.n) for arm in summary.arms if arm.boxes] == [(7, 20), (19, 20), (19, 20)]
    assert "7/20" in summary.table()[1][0][-1]
    written = json.loads((out / "study.json").read_text())["conditions"][0]["arms"][0]["boxes"]
    assert written["low"] < 7 / 20 < written["high"]
    assert summarise(STUDY, out, 2)[0].arms[0].boxes is None
